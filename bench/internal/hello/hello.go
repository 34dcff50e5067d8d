// Package hello holds the functions that the benchmarks call: the same greeting
// in every runtime.
package hello

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
)

//go:embed go python node provided
var sources embed.FS

// MaxInstances is how many instances of one function may run.
const MaxInstances = 64

// Copy is a function to deploy.
type Copy struct {
	// Runtime is one of [functions.Runtimes].
	Runtime string
	Name    string
	// Salt makes the code differ, so that no cache knows it; empty for none.
	Salt string
}

// Bundle packs the function's folder as `dayfly deploy` does.
func (c Copy) Bundle() (*bytes.Reader, error) {
	dir, err := os.MkdirTemp("", "dayfly-bench-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := c.write(dir); err != nil {
		return nil, fmt.Errorf("write function %s: %w", c.Name, err)
	}
	var packed bytes.Buffer
	if _, err := bundle.Pack(dir, &packed); err != nil {
		return nil, err
	}
	return bytes.NewReader(packed.Bytes()), nil
}

func (c Copy) write(dir string) error {
	entries, err := fs.ReadDir(sources, c.Runtime)
	if err != nil {
		return err
	}
	for _, e := range entries {
		content, err := fs.ReadFile(sources, path.Join(c.Runtime, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), content, 0o755); err != nil {
			return err
		}
	}
	if c.Salt != "" {
		if err := os.WriteFile(filepath.Join(dir, "salt.txt"), []byte(c.Salt), 0o644); err != nil {
			return err
		}
	}
	manifest := fmt.Sprintf("name: %s\nruntime: %s\nnetwork: none\nmaxInstances: %d\n", c.Name, c.Runtime, MaxInstances)
	switch c.Runtime {
	case functions.RuntimePython:
		manifest += "handler: app.handler\n"
	case functions.RuntimeNode:
		manifest += "handler: index.handler\n"
	}
	return os.WriteFile(filepath.Join(dir, functions.ManifestName), []byte(manifest), 0o644)
}
