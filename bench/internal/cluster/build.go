// Package cluster runs Dayfly for a benchmark: `dayfly up`, or its roles as
// processes of their own, over the same data.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build compiles Dayfly as `make build` does and returns the binary's path in dir.
// It must run inside Dayfly's module.
func Build(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	module := strings.TrimSpace(string(out))
	if filepath.Base(module) != "go.mod" {
		return "", errors.New("run this inside Dayfly's source folder, or name a binary with -dayfly")
	}
	binary := filepath.Join(dir, "dayfly")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/dayfly")
	cmd.Dir = filepath.Dir(module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}
