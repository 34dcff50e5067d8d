package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/dayfly-run/dayfly/functions/bundle"
)

// applyIgnore leaves out of the bundle what its ignore file names, and the file with it:
// what is installed after it is not the user's to leave out.
func applyIgnore(t task) error {
	ignore := filepath.Join(t.dir, bundle.IgnoreName)
	if _, err := os.Lstat(ignore); err != nil {
		return nil // there is none
	}
	packed, err := os.Create(filepath.Join(t.work, "ignored.tar.gz"))
	if err != nil {
		return fmt.Errorf("apply %s: %w", bundle.IgnoreName, err)
	}
	defer packed.Close()
	if _, err := bundle.Pack(t.dir, packed); err != nil {
		return err
	}
	if _, err = packed.Seek(0, 0); err == nil {
		err = errors.Join(os.RemoveAll(t.dir), makeFolder(t.dir))
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", bundle.IgnoreName, err)
	}
	if _, err := bundle.Unpack(packed, t.dir, bundle.DefaultLimits()); err != nil {
		return err
	}
	if err := os.Remove(ignore); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("apply %s: %w", bundle.IgnoreName, err)
	}
	return nil
}

// merge moves what is in a layer into the bundle's files, which win.
func merge(t task, layer string) error {
	entries, err := os.ReadDir(layer)
	if err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	for _, e := range entries {
		to := filepath.Join(t.dir, e.Name())
		if _, err := os.Lstat(to); err == nil {
			t.say("%s is in the folder as well; that one is used", e.Name())
			continue
		}
		if err := os.Rename(filepath.Join(layer, e.Name()), to); err != nil {
			return fmt.Errorf("install packages: %w", err)
		}
	}
	return nil
}

// setting is the value of one of a tool's settings, the last one that is made.
func setting(env []string, name string) (value string) {
	for _, e := range env {
		if key, v, _ := strings.Cut(e, "="); key == name {
			value = v
		}
	}
	return value
}

// hostOf is the host of an index, or what it is called when it has no address.
func hostOf(index, otherwise string) string {
	u, err := url.Parse(index)
	if err != nil || u.Host == "" {
		return otherwise
	}
	return u.Host
}
