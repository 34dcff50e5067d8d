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

// Build compiles Dayfly and the function into a folder. It must run inside Dayfly's
// module. A binary that is named is taken in place of Dayfly's source.
func Build(ctx context.Context, dir, binary string) (Programs, error) {
	p := Programs{Dayfly: filepath.Join(dir, "dayfly"), Function: filepath.Join(dir, "function")}
	if err := Compile(ctx, p.Function, "./test/cluster/function"); err != nil {
		return p, err
	}
	if binary == "" {
		return p, Compile(ctx, p.Dayfly, "./cmd/dayfly")
	}
	var err error
	p.Dayfly, err = filepath.Abs(binary)
	return p, err
}

// Compile compiles a program of Dayfly's module, in which it must run, as `make build`
// does. The package is named from the module's folder, as in "./cmd/dayfly".
func Compile(ctx context.Context, path, program string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	module := strings.TrimSpace(string(out))
	if filepath.Base(module) != "go.mod" {
		return errors.New("run this inside Dayfly's source folder, or name a binary of Dayfly")
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", path, program)
	cmd.Dir = filepath.Dir(module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", program, err, out)
	}
	return nil
}
