package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// tree is a folder's content by name: a link begins with "-> ", an executable
// with "#!", a folder ends in "/".
type tree map[string]string

type testingT interface {
	Helper()
	Fatalf(format string, args ...any)
}

func must(t testingT, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// plant makes a folder with the content.
func plant(t testingT, dir string, content tree) string {
	t.Helper()
	for name, text := range content {
		full := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		switch target, isLink := cutLink(text); {
		case isLink:
			must(t, os.Symlink(target, full))
		case name[len(name)-1] == '/':
			must(t, os.MkdirAll(full, 0o755))
		default:
			mode := fs.FileMode(0o600)
			if len(text) > 1 && text[:2] == "#!" {
				mode = 0o700
			}
			must(t, os.WriteFile(full, []byte(text), mode))
		}
	}
	return dir
}

func cutLink(text string) (target string, isLink bool) {
	if len(text) >= 3 && text[:3] == "-> " {
		return text[3:], true
	}
	return "", false
}

// harvest reads a folder's files and links, and checks the modes.
func harvest(t testingT, dir string) tree {
	t.Helper()
	found := tree{}
	must(t, filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil || full == dir {
			return err
		}
		name, err := filepath.Rel(dir, full)
		must(t, err)
		info, err := d.Info()
		must(t, err)
		switch info.Mode().Type() {
		case fs.ModeDir:
			if info.Mode().Perm() != modeFolder || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
				t.Fatalf("%s has mode %v", name, info.Mode())
			}
		case fs.ModeSymlink:
			target, err := os.Readlink(full)
			must(t, err)
			found[name] = "-> " + target
		case 0:
			if info.Mode() != modePlain && info.Mode() != modeExecutable {
				t.Fatalf("%s has mode %v", name, info.Mode())
			}
			data, err := os.ReadFile(full)
			must(t, err)
			found[name] = string(data)
		default:
			t.Fatalf("%s is a %v", name, info.Mode())
		}
		return nil
	}))
	return found
}

func pack(t testingT, dir string) ([]byte, Summary) {
	t.Helper()
	var out bytes.Buffer
	summary, err := Pack(dir, &out)
	must(t, err)
	return out.Bytes(), summary
}

// archive makes a gzip-compressed tar that need not make sense.
func archive(t testingT, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for _, h := range entries {
		content := bytes.Repeat([]byte("x"), int(h.Size))
		must(t, w.WriteHeader(&h))
		_, err := w.Write(content)
		must(t, err)
	}
	must(t, w.Close())
	must(t, zipped.Close())
	return out.Bytes()
}

func file1(name string) tar.Header { return fileOf(name, 1) }

func fileOf(name string, size int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
}

func folderOf(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

func linkOf(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

func hardLinkOf(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}
}

func kindOf(kind byte, name string) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Mode: 0o644}
}

func checkError(t *testing.T, what string, err error, code wire.Code, message string) {
	t.Helper()
	if !wire.HasCode(err, code) {
		t.Errorf("%s: got %v, want code %s", what, err, code)
	} else if got := wire.AsError(err).Message; got != message {
		t.Errorf("%s:\n got %s\nwant %s", what, got, message)
	}
}
