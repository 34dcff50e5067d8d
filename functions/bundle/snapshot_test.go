package bundle_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/wire"
)

// TestSnapshot: it lists what Pack takes, and sees every kind of change.
func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("dayfly.yaml", "name: x")
	write("src/app.py", "one")
	write("left/out", "x")
	write(bundle.IgnoreName, "left/\n")
	if err := os.Symlink("app.py", filepath.Join(dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	look := func() map[string]bundle.Stamp {
		t.Helper()
		stamps, err := bundle.Snapshot(dir)
		if err != nil {
			t.Fatal(err)
		}
		return stamps
	}
	before := look()
	if got := slices.Sorted(maps.Keys(before)); !slices.Equal(got, []string{"dayfly.yaml", "src/app.py", "src/link"}) {
		t.Errorf("it lists %q", got)
	}
	write("left/out", "changed")
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Errorf("what is left out changed (-before +after):\n%s", diff)
	}
	app := filepath.Join(dir, "src/app.py")
	for name, change := range map[string]func() error{
		"longer":  func() error { return os.WriteFile(app, []byte("three"), 0o600) },
		"later":   func() error { return os.Chtimes(app, time.Time{}, time.Now().Add(time.Hour)) },
		"may run": func() error { return os.Chmod(app, 0o700) },
		"gone":    func() error { return os.Remove(filepath.Join(dir, "dayfly.yaml")) },
		"relinked": func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "src/link")), os.Symlink("./app.py", filepath.Join(dir, "src/link")))
		},
	} {
		before := look()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if cmp.Equal(before, look()) {
			t.Errorf("%s: no change is seen", name)
		}
	}
	if _, err := bundle.Snapshot(filepath.Join(dir, "nowhere")); !wire.HasCode(err, wire.CodeInvalid) {
		t.Errorf("of no folder: %v", err)
	}
}
