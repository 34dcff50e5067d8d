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

// Programs are the paths of what a cluster runs.
type Programs struct {
	Dayfly string
	// Function is what its functions are.
	Function string
}

// Build compiles Dayfly as `make build` does, and the function, into a folder. It must
// run inside Dayfly's module. A binary that is named is taken in place of Dayfly's source.
func Build(ctx context.Context, dir, binary string) (Programs, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return Programs{}, fmt.Errorf("go env: %w", err)
	}
	module := strings.TrimSpace(string(out))
	if filepath.Base(module) != "go.mod" {
		return Programs{}, errors.New("run this inside Dayfly's source folder")
	}
	p := Programs{Dayfly: filepath.Join(dir, "dayfly"), Function: filepath.Join(dir, "function")}
	sources := map[string]string{p.Dayfly: "./cmd/dayfly", p.Function: "./test/cluster/function"}
	if binary != "" {
		delete(sources, p.Dayfly)
		if p.Dayfly, err = filepath.Abs(binary); err != nil {
			return p, err
		}
	}
	for path, source := range sources {
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", path, source)
		cmd.Dir = filepath.Dir(module)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("go build %s: %w\n%s", source, err, out)
		}
	}
	return p, nil
}
