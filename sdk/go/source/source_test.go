package source

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestWriteModule builds and tests the Go example without a network, as the
// builder would: against the module that WriteModule wrote.
func TestWriteModule(t *testing.T) {
	dir := t.TempDir()
	module := filepath.Join(dir, "sdk")
	if err := WriteModule(module); err != nil {
		t.Fatal(err)
	}
	if err := WriteModule(module); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	for name, want := range map[string]bool{"sdk/go/start.go": true, "sdk/go/embed.go": false, "sdk/go/start_test.go": false} {
		if _, err := os.Stat(filepath.Join(module, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	example := filepath.Join(dir, "thumbnail")
	if err := os.CopyFS(example, os.DirFS("../../../examples/thumbnail")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace=github.com/dayfly-run/dayfly=" + module},
		{"vet", "./..."},
		{"test", "./..."},
		{"build", "-trimpath", "-o", filepath.Join(dir, "bootstrap"), "."},
	} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = example
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off", "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
}
