package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

// FuzzUnpack gives Unpack tars of any form. Nothing outside dst may change, no
// link may lead out of it, and after a refusal nothing is left.
func FuzzUnpack(f *testing.F) {
	for _, seed := range [][]tar.Header{
		{},
		{folderOf("./"), fileOf("a", 600), file1("b/c"), linkOf("b/l", "../a"), hardLinkOf("h", "a")},
		{file1("../x"), file1("/x"), file1(`a\b`)},
		{linkOf("l", "/etc"), file1("l/passwd")},
		{linkOf("x", "d/l/../.."), linkOf("d/l", "../d"), file1("x/f")},
		{linkOf("a", "b"), linkOf("b", "a")},
		{hardLinkOf("a", "../outside"), hardLinkOf("b", "a")},
		{file1("a"), linkOf("a", ".."), folderOf("a")},
		{kindOf(tar.TypeChar, "c"), kindOf(tar.TypeFifo, "p"), kindOf('S', "s")},
		{{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "../x"}}, file1("a")},
		{file1(strings.Repeat("long/", 60) + "name"), linkOf("l", strings.Repeat("x/", 200))},
	} {
		zipped := archive(f, seed...)
		f.Add(zipped, true)
		f.Add(unzip(f, zipped), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, zipped bool) {
		if !zipped {
			data = rezip(t, data)
		}
		base := t.TempDir()
		dst := filepath.Join(base, "in", "dst")
		plant(t, base, tree{"outside": "untouched", "in/outside": "untouched", "in/dst/": ""})
		limits := Limits{Files: 60, Bytes: 64 << 10}
		summary, err := Unpack(bytes.NewReader(data), dst, limits)
		checkOutside(t, base)
		if err != nil {
			checkRefusal(t, dst, err)
			return
		}
		if summary.Files > limits.Files || summary.Bytes > limits.Bytes {
			t.Fatalf("more than the limits: %+v", summary)
		}
		checkInside(t, dst)
		checkRepacks(t, dst)
	})
}

func checkOutside(t *testing.T, base string) {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(base, func(full string, d fs.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(full, base))
		if d.Name() == "dst" {
			return fs.SkipDir
		}
		return err
	}))
	if diff := cmp.Diff([]string{"", "/in", "/in/dst", "/in/outside", "/outside"}, names); diff != "" {
		t.Fatalf("outside: %s", diff)
	}
	for _, name := range []string{"outside", "in/outside"} {
		text, err := os.ReadFile(filepath.Join(base, name))
		must(t, err)
		info, err := os.Stat(filepath.Join(base, name))
		must(t, err)
		if string(text) != "untouched" || info.Mode() != 0o600 {
			t.Fatalf("%s: %q, %v", name, text, info.Mode())
		}
	}
}

func checkRefusal(t *testing.T, dst string, err error) {
	t.Helper()
	if !wire.HasCode(err, wire.CodeInvalid) && !wire.HasCode(err, wire.CodeTooLarge) {
		t.Fatalf("no refusal: %v", err)
	}
	if names, err := os.ReadDir(dst); err != nil || len(names) > 0 {
		t.Fatalf("left %v, %v", names, err)
	}
}

// checkInside checks kinds and modes, and follows every link.
func checkInside(t *testing.T, dst string) {
	t.Helper()
	real, err := filepath.EvalSymlinks(dst)
	must(t, err)
	for name, text := range harvest(t, dst) {
		if info, err := os.Lstat(filepath.Join(dst, name)); err != nil || info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		end, err := filepath.EvalSymlinks(filepath.Join(dst, name))
		if err == nil && end != real && !strings.HasPrefix(end, real+"/") {
			t.Fatalf("link %q (%q) leads to %s", name, text, end)
		}
	}
}

// checkRepacks packs what was unpacked: from then on nothing changes any more.
func checkRepacks(t *testing.T, dst string) {
	t.Helper()
	var first, second bytes.Buffer
	if _, err := Pack(dst, &first); err != nil {
		if !wire.HasCode(err, wire.CodeInvalid) {
			t.Fatalf("pack: %v", err)
		}
		return // an ignore file with errors, or a link through what is ignored
	}
	again := t.TempDir()
	_, err := Unpack(bytes.NewReader(first.Bytes()), again, DefaultLimits())
	must(t, err)
	_, err = Pack(again, &second)
	must(t, err)
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Fatal("packed again: other bytes")
	}
}

func unzip(t testingT, data []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(data))
	must(t, err)
	var out bytes.Buffer
	_, err = out.ReadFrom(r)
	must(t, errors.Join(err, r.Close()))
	return out.Bytes()
}

func rezip(t testingT, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	must(t, err)
	_, err = w.Write(data)
	must(t, errors.Join(err, w.Close()))
	return out.Bytes()
}
