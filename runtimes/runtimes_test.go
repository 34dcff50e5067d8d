package runtimes

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestLookup(t *testing.T) {
	for _, name := range []string{"go", "node", "provided", "python"} {
		r, ok := Lookup(name)
		if !ok || r.Name != name || r.Root() == "" || len(r.Command) == 0 || !r.RootDigest().Valid() {
			t.Errorf("%s: got %+v, %v", name, r, ok)
		}
	}
	if _, ok := Lookup("cobol"); ok {
		t.Error("found cobol")
	}
}

func TestStemKey(t *testing.T) {
	python, _ := Lookup("python")
	image := wire.Digest(strings.Repeat("0a", 32))
	for _, test := range []struct {
		name          string
		code          wire.Digest
		network, want string
	}{
		{"python", image, "none", python.Root() + "/none"},
		{"go", "", "egress", StemKey("provided", "", "egress")}, // they share a root
		{"image", image, "egress", Image(image).Root() + "/egress"},
		{"image", "", "egress", ""},
		{"", "", "", ""},
	} {
		if got := StemKey(test.name, test.code, test.network); got != test.want {
			t.Errorf("%s with network %s: %q, want %q", test.name, test.network, got, test.want)
		}
	}
}

func TestRootDigest(t *testing.T) {
	goRuntime, _ := Lookup("go")
	provided, _ := Lookup("provided")
	python, _ := Lookup("python")
	if goRuntime.Root() != provided.Root() || goRuntime.RootDigest() != provided.RootDigest() {
		t.Error("go and provided do not share a root")
	}
	if python.RootDigest() == goRuntime.RootDigest() {
		t.Error("python and go have the same digest")
	}
	more := goRuntime
	more.Packages = append([]string{"hello"}, goRuntime.Packages...)
	if more.RootDigest() == goRuntime.RootDigest() {
		t.Error("another package does not change the digest")
	}
}

func TestWriteShims(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "shims")
	if err := WriteShims(dir); err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(dir, pythonShim)
	before, err := os.Stat(python)
	if err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(dir, nodeShim)
	right, err := os.ReadFile(node)
	if err != nil || len(right) == 0 {
		t.Fatalf("the shim holds %q, %v", right, err)
	}
	if err := errors.Join(os.WriteFile(node, []byte("spoilt"), 0o600), os.Chmod(node, 0o600), WriteShims(dir)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(python); err != nil || !os.SameFile(before, after) {
		t.Errorf("a shim that was right was replaced (%v)", err)
	}
	if got, err := os.ReadFile(node); err != nil || string(got) != string(right) {
		t.Errorf("a spoilt shim was not replaced (%v)", err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: fs.ModeDir | 0o755, false: 0o644}[d.IsDir()]; info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestHostMirrors(t *testing.T) {
	signed := ""
	if _, err := os.Stat(debianKeyring); err == nil {
		signed = "[signed-by=" + debianKeyring + "] "
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", nil, nil},
		{"another system", map[string]string{"sources.list": "deb http://archive.ubuntu.com/ubuntu noble main\n"}, nil},
		{"one-line", map[string]string{"sources.list": strings.Join([]string{
			"# deb http://no.example/debian bookworm main",
			"deb cdrom:[Debian 12]/ bookworm main",
			"deb-src http://src.example/debian bookworm main",
			"deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] http://docker.example/ bookworm main",
			"deb [arch=amd64] http://a.example/debian bookworm main contrib # ours",
			"deb http://b.example/debian bookworm main",
			"deb http://sec.example/debian-security bookworm-security main",
		}, "\n")}, []string{
			"deb " + signed + "http://a.example/debian bookworm main",
			"deb " + signed + "http://sec.example/debian-security bookworm-security main",
		}},
		{"deb822", map[string]string{
			"sources.list.d/debian.sources": "Types: deb deb-src\n# a comment\nURIs: http://c.example/debian\nSuites: bookworm\n bookworm-updates\n" +
				"Components: main\nSigned-By: " + debianKeyring + "\n\nTypes: deb\nURIs: http://off.example/debian-security\n" +
				"Suites: bookworm-security\nComponents: main\nEnabled: no\n",
			"sources.list.d/nodesource.sources": "Types: deb\nURIs: https://deb.nodesource.com/node_20.x\nSuites: nodistro\nComponents: main\n" +
				"Signed-By: /usr/share/keyrings/nodesource.gpg\n",
		}, []string{
			"deb " + signed + "http://c.example/debian bookworm main",
			"deb " + signed + "http://c.example/debian bookworm-updates main",
		}},
		{"updates alone", map[string]string{"sources.list": "deb http://a.example/debian bookworm-updates main\n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, c.files)
			got, err := hostMirrors(dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBuildRootStopsWithItsContext(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("these tests need root, as BuildRoot does")
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	dir := t.TempDir()
	r, _ := Lookup("go")
	if err := BuildRoot(ctx, r, filepath.Join(dir, "root.tar"), io.Discard); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestBuildRootSaysWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r, _ := Lookup("go")
	err := BuildRoot(t.Context(), r, filepath.Join(t.TempDir(), "root.tar"), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "apt-get install mmdebstrap") {
		t.Errorf("got %v", err)
	}
}
