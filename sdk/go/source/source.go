// Package source writes the Go SDK's source, so that functions can be built
// against it without a network.
package source

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

const goMod = "module github.com/dayfly-run/dayfly\n\ngo 1.24\n"

// WriteModule writes into dir, which is made when it is missing, a Go module
// that holds nothing but the SDK: go.mod and sdk/go/*.go. Anybody may read the
// files, whatever the umask is.
func WriteModule(dir string) error {
	files := map[string][]byte{"go.mod": []byte(goMod)}
	entries, err := fs.ReadDir(dayfly.Source, ".")
	if err != nil {
		return fmt.Errorf("write the Go SDK: %w", err)
	}
	for _, entry := range entries {
		content, err := fs.ReadFile(dayfly.Source, entry.Name())
		if err != nil {
			return fmt.Errorf("write the Go SDK: %w", err)
		}
		files[filepath.Join("sdk", "go", entry.Name())] = content
	}
	for _, folder := range []string{"", "sdk", filepath.Join("sdk", "go")} {
		path := filepath.Join(dir, folder)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("write the Go SDK: %w", err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return fmt.Errorf("write the Go SDK: %w", err)
		}
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("write the Go SDK: %w", err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return fmt.Errorf("write the Go SDK: %w", err)
		}
	}
	return nil
}
