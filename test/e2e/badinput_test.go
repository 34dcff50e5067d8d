package e2e_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// What bad input gets: one clear error, a stable code, and nothing half-made.

const good = "name: sound\nruntime: python\nhandler: app.handler\n"

// TestBadFolders goes through the command line, which sees most before it sends.
func TestBadFolders(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		app := "def handler(event, context): pass\n"
		for _, c := range []struct {
			name string
			f    files
			says []string
		}{
			{"no manifest", files{"app.py": app}, []string{"no dayfly.yaml"}},
			{"unknown key", files{"dayfly.yaml": good + "memroy: 1Gi\n", "app.py": app}, []string{"dayfly.yaml:4", "memroy", "memory"}},
			{"unknown runtime", files{"dayfly.yaml": "name: a\nruntime: pyton\nhandler: app.handler\n", "app.py": app}, []string{"dayfly.yaml:2", "pyton", "python"}},
			{"no name", files{"dayfly.yaml": "runtime: python\nhandler: app.handler\n", "app.py": app}, []string{"name", "missing"}},
			{"bad name", files{"dayfly.yaml": "name: Not_A_Name\nruntime: python\nhandler: app.handler\n", "app.py": app}, []string{"dayfly.yaml:1", "Not_A_Name", "lower-case"}},
			{"no handler", files{"dayfly.yaml": "name: a\nruntime: python\n", "app.py": app}, []string{"handler", "app.handler"}},
			{"handler without file", files{"dayfly.yaml": "name: a\nruntime: python\nhandler: main.handler\n", "app.py": app}, []string{"main.handler", "main.py"}},
			{"node handler without file", files{"dayfly.yaml": "name: a\nruntime: node\nhandler: main.handler\n", "app.py": app}, []string{"main.handler", "main.mjs"}},
			{"no bootstrap", files{"dayfly.yaml": "name: a\nruntime: provided\n", "app.py": app}, []string{"bootstrap"}},
			{"too long", files{"dayfly.yaml": good + "timeout: 16m\n", "app.py": app}, []string{"dayfly.yaml:4", "16m", "15m"}},
			{"no YAML", files{"dayfly.yaml": "name: [\n", "app.py": app}, []string{"dayfly.yaml:"}},
			{"bad secret", files{"dayfly.yaml": good + "secrets: [A-B]\n", "app.py": app}, []string{"dayfly.yaml:4", "A-B", "not a variable"}},
			{"go that does not compile", files{"dayfly.yaml": "name: a\nruntime: go\n", "main.go": "package main\n\nfunc main() { undefined() }\n"}, []string{"main.go:3", "undefined"}},
			{"module that is none", files{"dayfly.yaml": "name: a\nruntime: go\n", "main.go": "package main\n\nimport _ \"example.invalid/none\"\n\nfunc main() {}\n", "go.mod": "module a\n\ngo 1.24\n\nrequire example.invalid/none v1.0.0\n"}, []string{"example.invalid/none"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				dir := t.TempDir()
				if err := c.f.folder(dir); err != nil {
					t.Fatal(err)
				}
				p.cli(t, "deploy", dir, "--namespace", "bad").wantExit(t, 2, c.says...)
			})
		}
		dir := t.TempDir()
		p.cli(t, "deploy", filepath.Join(dir, "nothing")).wantExit(t, 2, "does not exist")
		if err := (files{"dayfly.yaml": good, "app.py": app}).folder(dir); err != nil {
			t.Fatal(err)
		}
		p.cli(t, "deploy", dir, "--namespace", "Not A Name").wantExit(t, 2, "Not A Name")
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		p.cli(t, "deploy", dir, "--namespace", "bad").wantExit(t, 2, "out", "/etc/passwd")
		if names := p.names(t, "bad"); len(names) != 0 {
			t.Errorf("registered is %v", names)
		}
	})
}

// TestBadBundles posts what the command line would never make.
func TestBadBundles(t *testing.T) {
	t.Parallel()
	large := bomb(t, wire.MaxBundleUnpacked+1)
	manifest, app := entry("dayfly.yaml", good), entry("app.py", "def handler(event, context): pass\n")
	with := func(t *testing.T, more ...tar.Header) []byte {
		return packed(t, append([]tar.Header{manifest, app}, more...)...)
	}
	cases := []struct {
		name   string
		bundle func(t *testing.T) []byte
		status int
		code   wire.Code
		says   []string
	}{
		{"dots", func(t *testing.T) []byte { return with(t, entry("../evil", "x")) }, 400, wire.CodeInvalid, []string{"../evil"}},
		{"dots inside", func(t *testing.T) []byte { return with(t, entry("a/../../evil", "x")) }, 400, wire.CodeInvalid, []string{"a/../../evil"}},
		{"absolute", func(t *testing.T) []byte { return with(t, entry("/tmp/evil", "x")) }, 400, wire.CodeInvalid, []string{"/tmp/evil"}},
		{"link out", func(t *testing.T) []byte {
			return with(t, tar.Header{Name: "link", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink})
		}, 400, wire.CodeInvalid, []string{"link", "/etc/passwd"}},
		{"link up", func(t *testing.T) []byte {
			return with(t, tar.Header{Name: "a/link", Linkname: "../../evil", Typeflag: tar.TypeSymlink})
		}, 400, wire.CodeInvalid, []string{"a/link", "../../evil"}},
		{"through a link", func(t *testing.T) []byte {
			return with(t, tar.Header{Name: "dir", Linkname: "/tmp", Typeflag: tar.TypeSymlink}, entry("dir/evil", "x"))
		}, 400, wire.CodeInvalid, []string{"dir"}},
		{"hard link out", func(t *testing.T) []byte {
			return with(t, tar.Header{Name: "hard", Linkname: "/etc/passwd", Typeflag: tar.TypeLink})
		}, 400, wire.CodeInvalid, []string{"hard", "/etc/passwd"}},
		{"device", func(t *testing.T) []byte {
			return with(t, tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
		}, 400, wire.CodeInvalid, []string{"null", "device"}},
		{"block device", func(t *testing.T) []byte {
			return with(t, tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8})
		}, 400, wire.CodeInvalid, []string{"disk", "device"}},
		{"pipe", func(t *testing.T) []byte { return with(t, tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}) }, 400, wire.CodeInvalid, []string{"pipe"}},
		{"twice", func(t *testing.T) []byte { return with(t, entry("app.py", "other")) }, 400, wire.CodeInvalid, []string{"app.py", "twice"}},
		{"bomb", func(*testing.T) []byte { return large }, 413, wire.CodeTooLarge, []string{"262144000"}},
		{"no archive", func(*testing.T) []byte { return []byte("an archive is expected") }, 400, wire.CodeInvalid, []string{"neither gzip nor zip"}},
		{"damaged zip", func(*testing.T) []byte { return []byte("PK\x03\x04 is no zip") }, 400, wire.CodeInvalid, []string{"the zip is damaged"}},
		{"zip with dots", func(t *testing.T) []byte { return asZip(t, "dayfly.yaml", good, "../evil", "x") }, 400, wire.CodeInvalid, []string{"../evil"}},
		{"zip of 100,000 files", func(t *testing.T) []byte { return asZip(t, manyFiles(100_000)...) }, 413, wire.CodeTooLarge, []string{"more than 50000 files"}},
		{"zip bomb", func(t *testing.T) []byte {
			return asZip(t, "dayfly.yaml", good, "bomb", strings.Repeat("0", wire.MaxBundleUnpacked))
		}, 413, wire.CodeTooLarge, []string{"262144000"}},
		{"manifest of 10 MB", func(t *testing.T) []byte {
			return packed(t, app, entry("dayfly.yaml", good+strings.Repeat("# much to say\n", 10<<20/14)))
		}, 400, wire.CodeInvalid, []string{"dayfly.yaml"}},
		{"nothing", func(*testing.T) []byte { return nil }, 400, wire.CodeInvalid, []string{"bundle", "gzip"}},
		{"cut", func(t *testing.T) []byte { b := with(t); return b[:len(b)/2] }, 400, wire.CodeInvalid, []string{"ends too early"}},
		{"no tar", func(t *testing.T) []byte { return zipped(t, strings.NewReader(strings.Repeat("text", 1000))) }, 400, wire.CodeInvalid, []string{"damaged"}},
		{"no manifest", func(t *testing.T) []byte { return packed(t, app) }, 400, wire.CodeInvalid, []string{"dayfly.yaml"}},
		{"manifest is a link", func(t *testing.T) []byte {
			return packed(t, app, entry("real", good), tar.Header{Name: "dayfly.yaml", Linkname: "real", Typeflag: tar.TypeSymlink})
		}, 400, wire.CodeInvalid, []string{"dayfly.yaml"}},
		{"bad manifest", func(t *testing.T) []byte { return packed(t, entry("dayfly.yaml", good+"nonsense: 1\n"), app) }, 400, wire.CodeInvalid, []string{"dayfly.yaml:4", "nonsense"}},
		{"no handler", func(t *testing.T) []byte { return packed(t, manifest) }, 400, wire.CodeInvalid, []string{"app.handler", "app.py"}},
	}
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		const path = "/v1/functions?namespace=hostile"
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				bundle := c.bundle(t)
				p.do(t, http.MethodPost, path, bundle, "Content-Type: application/gzip").wantProblem(t, c.status, c.code, c.says...)
				if left := p.objects(t, fmt.Sprintf("bundles/%x", sha256.Sum256(bundle))); len(left) != 0 {
					t.Errorf("it is left in S3: %q", left)
				}
			})
		}
		p.do(t, http.MethodPost, "/v1/functions?namespace=Not_A_Name", with(t)).wantProblem(t, 400, wire.CodeInvalid, "Not_A_Name")
		chunked, err := p.request(http.MethodPost, path, struct{ io.Reader }{bytes.NewReader(with(t))})
		if err != nil {
			t.Fatal(err)
		}
		chunked.wantProblem(t, 400, wire.CodeInvalid, "Content-Length")
		if names := p.names(t, "hostile"); len(names) != 0 {
			t.Errorf("registered is %v", names)
		}
		for _, evil := range []string{"/tmp/evil", filepath.Join(p.dir, "evil")} {
			if _, err := os.Lstat(evil); err == nil {
				t.Errorf("%s was written", evil)
			}
		}
		// The same bundle without its evil is fine.
		p.do(t, http.MethodPost, path, with(t), "Content-Type: application/gzip").want(t, http.StatusCreated)
		if names := p.names(t, "hostile"); !slices.Equal(names, []string{"sound"}) {
			t.Errorf("registered is %v", names)
		}
		// So is it as a zip.
		p.do(t, http.MethodPost, path, asZip(t, "dayfly.yaml", good, "app.py", "def handler(event, context): pass\n")).want(t, http.StatusCreated)
		p.do(t, http.MethodDelete, "/v1/functions/sound.hostile", nil).want(t, http.StatusNoContent)
	})
}

// asZip packs files, each a name and its content.
func asZip(t *testing.T, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	w.RegisterCompressor(zip.Deflate, func(to io.Writer) (io.WriteCloser, error) { return flate.NewWriter(to, flate.BestSpeed) })
	for i := 0; i < len(files); i += 2 {
		header := &zip.FileHeader{Name: files[i], Method: zip.Store} // a compressor for each of many files takes minutes
		if len(files[i+1]) > 1<<10 {
			header.Method = zip.Deflate
		}
		f, err := w.CreateHeader(header)
		if err == nil {
			_, err = io.WriteString(f, files[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func manyFiles(n int) []string {
	files := make([]string, 2*n)
	for i := range n {
		files[2*i] = strconv.Itoa(i)
	}
	return files
}

// TestBundleOverTheLimit uploads more than a bundle may have, packed.
func TestBundleOverTheLimit(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/v1/functions", io.LimitReader(zeros{}, wire.MaxBundlePacked+1))
		if err != nil {
			t.Fatal(err)
		}
		request.ContentLength = wire.MaxBundlePacked + 1
		request.Header.Set("Expect", "100-continue")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		answer{status: response.StatusCode, header: response.Header, body: body}.
			wantProblem(t, http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "104857600")
	})
}

// zeros is an endless file of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func zipped(t *testing.T, r io.Reader) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// bomb is a small bundle that unpacks to more than may be.
func bomb(t *testing.T, size int64) []byte {
	t.Helper()
	var head bytes.Buffer
	archive := tar.NewWriter(&head)
	if err := archive.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	return zipped(t, io.MultiReader(&head, io.LimitReader(zeros{}, size)))
}

// objects lists what S3 holds in a folder, by its files on disk.
func (p *platform) objects(t *testing.T, folder string) (found []string) {
	t.Helper()
	root := filepath.Join(p.dir, "s3")
	if p.setup == "up" {
		root = filepath.Join(p.dir, "data", "s3")
	}
	dir := filepath.Join(root, "objects", "dayfly", folder)
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "objects", "dayfly")); err != nil {
		t.Fatalf("S3 keeps its objects elsewhere: %v", err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

func TestUnknownAndMalformed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		for _, c := range []struct {
			method, path string
			status       int
			code         wire.Code
			says         string
		}{
			{"GET", "/f/nobody", 404, wire.CodeNotFound, "nobody"},
			{"GET", "/f/" + name + ":99", 404, wire.CodeNotFound, "99"},
			{"GET", "/f/" + name + ":stable", 404, wire.CodeNotFound, "stable"},
			{"GET", "/f/" + name + ".elsewhere", 404, wire.CodeNotFound, "elsewhere"},
			{"GET", "/f/Not_A_Name", 400, wire.CodeInvalid, "Not_A_Name"},
			{"GET", "/f/a%2fb", 400, wire.CodeInvalid, "a/b"},
			{"POST", "/v1/functions/nobody/invocations", 404, wire.CodeNotFound, "nobody"},
			{"POST", "/v1/functions/-/invocations", 400, wire.CodeInvalid, "-"},
			{"GET", "/v1/functions/nobody", 404, wire.CodeNotFound, "nobody"},
			{"GET", "/v1/functions/nobody/logs", 404, wire.CodeNotFound, "nobody"},
			{"GET", "/v1/functions/" + name + "/logs?tail=many", 400, wire.CodeInvalid, "many"},
			{"GET", "/v1/functions/" + name + "/logs?invocation=x", 400, wire.CodeInvalid, "x"},
			{"DELETE", "/v1/functions/nobody", 404, wire.CodeNotFound, "nobody"},
			{"DELETE", "/v1/functions/" + name + ":1", 400, wire.CodeInvalid, "version"},
			{"GET", "/", 404, wire.CodeNotFound, "/f/NAME"},
			{"GET", "/v2/functions", 404, wire.CodeNotFound, "/v2/functions"},
			{"PUT", "/v1/functions", 405, wire.CodeInvalid, "PUT"},
		} {
			t.Run(fmt.Sprint(c.method, " ", c.path), func(t *testing.T) {
				p.do(t, c.method, c.path, nil).wantProblem(t, c.status, c.code, c.says)
			})
		}
		p.invoke(t, name, map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
	})
}
