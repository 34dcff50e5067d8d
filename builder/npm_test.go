package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNpmIsRefused: only what was published is ever used, and the error says what to do.
func TestNpmIsRefused(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer server.Close()
	b := &Builder{npm: newTurn(), cfg: Config{DataDir: t.TempDir(), NpmEnv: []string{"npm_config_registry=" + server.URL + "/npm"}}}
	want := func(text string) {
		t.Helper()
		dir, err := b.npmTool(t.Context())
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "--vendor") {
			t.Errorf("%s, %v; want %s", dir, err, text)
		}
		if left, _ := filepath.Glob(filepath.Join(b.cfg.DataDir, "tools", "*")); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	}
	want("is not what was published")
	answer = http.NotFound
	want("answered 404 Not Found for /npm/npm/-/npm-" + npmVersion + ".tgz")
	server.Close()
	want("could not be reached")
	b.cfg.NpmEnv = nil
	want("knows no registry")
	b.cfg.NpmRegistry = func(context.Context) string { return server.URL + "/" }
	want("could not be reached")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.npmTool(ctx); err == nil {
		t.Error("fetched without a context")
	}
}

// TestUnpackNpm: nothing is written outside of the folder.
func TestUnpackNpm(t *testing.T) {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	var errs error
	for _, name := range []string{"package/bin/npm-cli.js", "package/../../out", "/abs/out", "package/package.json"} {
		errs = errors.Join(errs, archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o600}))
		_, err := archive.Write([]byte("x"))
		errs = errors.Join(errs, err)
	}
	errs = errors.Join(errs, archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "package/link", Linkname: "/etc"}), archive.Close(), zipped.Close())
	parent := t.TempDir()
	dir := filepath.Join(parent, "npm")
	if err := errors.Join(errs, os.Mkdir(dir, 0o700), unpackNpm(packed.Bytes(), dir)); err != nil {
		t.Fatal(err)
	}
	for name, there := range map[string]bool{"npm/bin/npm-cli.js": true, "npm/package.json": true, "out": false, "npm/link": false} {
		if _, err := os.Lstat(filepath.Join(parent, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := unpackNpm([]byte("x"), dir); err == nil {
		t.Error("unpacked what is no archive")
	}
}
