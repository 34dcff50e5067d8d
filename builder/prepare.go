package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/go/source"
	"github.com/dayfly-run/dayfly/wire"
)

// Where a build container has things.
const (
	sourceMount = "/build/source"
	sdkMount    = "/build/sdk"
	goMount     = "/usr/local/go"
	cacheMount  = "/build/cache"
)

// maxLog bounds what is passed on of a build's output, in bytes.
const maxLog = 64 << 10

// prepare turns the source folder into what an instance sees, by runtime, and
// checks that the handler is there.
func (b *Builder) prepare(ctx context.Context, id, work, dir string, spec functions.Spec) (log string, err error) {
	switch spec.Runtime {
	case functions.RuntimePython:
		return note(dir, "requirements.txt"), requireModule(dir, spec.Handler, ".py", "/__init__.py")
	case functions.RuntimeNode:
		return note(dir, "package-lock.json"), requireModule(dir, spec.Handler, ".mjs", ".js", ".cjs")
	case functions.RuntimeProvided:
		return "", requireBootstrap(dir)
	case functions.RuntimeGo:
		return b.compile(ctx, id, work, dir)
	}
	return "", wire.Errorf(wire.CodeInvalid, "this builder does not know the runtime %q; upgrade it", spec.Runtime)
}

// note says what this release does not do with a file that asks for it.
func note(dir, name string) string {
	if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
		return ""
	}
	return name + " is there, but this release installs no dependencies: put them into the folder itself.\n"
}

// requireModule checks that the handler's module is a file of the bundle. Whether
// it has the function is seen when it is first loaded.
func requireModule(dir, handler string, endings ...string) error {
	module := handler[:strings.LastIndexByte(handler, '.')]
	var tried []string
	for _, ending := range endings {
		name := module + ending
		if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name))); err == nil && info.Mode().IsRegular() {
			return nil
		}
		tried = append(tried, name)
	}
	return wire.Errorf(wire.CodeInvalid, "handler %q: the bundle has no %s; add it, or name another handler in %s",
		handler, strings.Join(tried, " or "), functions.ManifestName)
}

func requireBootstrap(dir string) error {
	info, err := os.Stat(filepath.Join(dir, functions.DefaultHandler))
	switch {
	case err != nil || !info.Mode().IsRegular():
		return wire.Errorf(wire.CodeInvalid, "runtime provided: the bundle has no file %q; add an executable of that name", functions.DefaultHandler)
	case info.Mode().Perm()&0o111 == 0:
		return wire.Errorf(wire.CodeInvalid, "runtime provided: %q is not executable; run chmod +x %s", functions.DefaultHandler, functions.DefaultHandler)
	}
	return nil
}

// The steps of a Go build. Dependencies are fetched with a network, the code is
// compiled without one. The SDK comes with the builder, so that a function that
// needs nothing else builds offline.
const (
	goModule = `
if [ ! -e go.mod ]; then go mod init function; fi
if [ ! -d vendor ]; then go mod edit -replace=github.com/dayfly-run/dayfly=` + sdkMount + `; fi
`
	goFetch = goModule + `go list -mod=mod -deps . >/dev/null`
	// That mode refuses a package that is not main, which else becomes an archive.
	goCompile = goModule + `go build -buildmode=exe -trimpath -ldflags=-s\ -w -o bootstrap .`
)

// compile replaces Go source by a static binary.
func (b *Builder) compile(ctx context.Context, id, work, dir string) (string, error) {
	if b.cfg.GoRoot == "" {
		return "", wire.Errorf(wire.CodeInvalid,
			"this builder has no Go toolchain; start it with --go-root, or compile here and deploy with runtime: provided")
	}
	sdk, cache := filepath.Join(work, "sdk"), filepath.Join(b.cfg.DataDir, "cache")
	if err := source.WriteModule(sdk); err != nil {
		return "", err
	}
	if err := giveAway(dir, cache); err != nil {
		return "", err
	}
	job := Job{
		ID: id, WorkDir: sourceMount,
		Folders: map[string]Folder{
			sourceMount: {Path: dir, Writable: true},
			cacheMount:  {Path: cache, Writable: true},
			sdkMount:    {Path: sdk},
			goMount:     {Path: b.cfg.GoRoot},
		},
		Env: []string{
			"PATH=" + goMount + "/bin:/usr/bin:/bin", "HOME=/tmp", "GOROOT=" + goMount, "GOTOOLCHAIN=local", "CGO_ENABLED=0",
			"GOCACHE=" + cacheMount + "/build", "GOMODCACHE=" + cacheMount + "/modules",
			"GOTELEMETRY=off", "GOWORK=off",
		},
	}
	var log string
	if needsModules(dir) {
		fetch := job
		fetch.ID += "-fetch"
		fetch.Network = true
		fetch.Script = goFetch
		fetch.Env = append(append(slices.Clone(job.Env), "GOFLAGS=-modcacherw"), b.cfg.GoEnv...)
		out, err := b.run(ctx, fetch, "go modules could not be fetched")
		if err != nil {
			return "", err
		}
		log = out
	}
	job.Script = goCompile
	job.Env = append(slices.Clone(job.Env), "GOPROXY=off", "GOFLAGS="+goFlags(dir))
	out, err := b.run(ctx, job, "go build failed")
	if err != nil {
		return "", err
	}
	if err := requireBinary(dir); err != nil {
		return "", err
	}
	return log + out, keepBinary(dir)
}

// requireBinary checks that the build left what it says: the container was the
// bundle's to write in.
func requireBinary(dir string) error {
	info, err := os.Lstat(filepath.Join(dir, functions.DefaultHandler))
	if err != nil || !info.Mode().IsRegular() {
		return wire.Errorf(wire.CodeInvalid, "go build left no executable; the package in the bundle's root must be main")
	}
	return nil
}

// goFlags lets the compiler complete go.mod for the SDK, unless dependencies are
// vendored, which go.mod must match as it is.
func goFlags(dir string) string {
	if hasVendor(dir) {
		return "-mod=vendor"
	}
	return "-mod=mod"
}

func hasVendor(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, "vendor"))
	return err == nil && info.IsDir()
}

// needsModules reports whether go.mod asks for modules that the builder has not.
func needsModules(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || hasVendor(dir) {
		return false
	}
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "//")
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) == 2 && strings.HasPrefix(fields[1], "v") && fields[0] != "github.com/dayfly-run/dayfly" {
			return true
		}
	}
	return false
}

// run runs a job; a failed command is the bundle's fault, and its own words lead.
func (b *Builder) run(ctx context.Context, job Job, what string) (string, error) {
	out, err := b.deps.Runner.Run(ctx, job)
	out = tidy(out)
	if err != nil {
		return "", b.jobFailed(ctx, what, out, err)
	}
	return out, nil
}

// tidy makes text that may be passed on of what a build printed.
func tidy(out string) string {
	out = strings.ToValidUTF8(out, "\uFFFD")
	if len(out) > maxLog {
		out = strings.ToValidUTF8(out[:maxLog], "") + "\n[dayfly: the rest of the build log was left out]\n"
	}
	return out
}

// jobFailed says whose fault it is that a job failed.
func (b *Builder) jobFailed(ctx context.Context, what, out string, err error) error {
	switch {
	case errors.Is(err, ErrJob):
		return wire.Errorf(wire.CodeInvalid, "%s:\n%s", what, strings.TrimSpace(out))
	case errors.Is(context.Cause(ctx), errStopping):
		return wire.Errorf(wire.CodeUnavailable, "%s: %s", what, errStopping)
	case ctx.Err() != nil:
		return wire.Errorf(wire.CodeInvalid, "%s: the build took longer than %s\n%s", what, b.cfg.Timeout, strings.TrimSpace(out))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// BuildUID is the user that build containers run as.
const BuildUID = 65532

// giveAway makes the source and the cache the build user's.
func giveAway(source, cache string) error {
	//nolint:gosec // the build user reads it
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return fmt.Errorf("make build cache: %w", err)
	}
	// What is in the cache belongs to that user already.
	if err := os.Chown(cache, BuildUID, BuildUID); err != nil {
		return fmt.Errorf("make build cache: %w", err)
	}
	return filepath.WalkDir(source, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, BuildUID, BuildUID) //nolint:gosec // nobody else writes there yet
	})
}

// keepBinary leaves the binary and the files that are no Go source.
func keepBinary(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, "vendor")); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if name := e.Name(); strings.HasSuffix(name, ".go") || name == "go.mod" || name == "go.sum" {
			return os.Remove(path) //nolint:gosec // the container that wrote there has ended
		}
		return nil
	})
}
