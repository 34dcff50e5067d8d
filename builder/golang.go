package builder

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/sdk/go/source"
	"github.com/dayfly-run/dayfly/wire"
)

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
func (b *Builder) compile(ctx context.Context, t task) (made, error) {
	if b.cfg.GoRoot == "" {
		return made{}, wire.Errorf(wire.CodeInvalid,
			"this builder has no Go toolchain; start it with --go-root, or compile here and deploy with runtime: provided")
	}
	sdk := filepath.Join(t.work, "sdk")
	if err := source.WriteModule(sdk); err != nil {
		return made{}, err
	}
	in := input{Kind: "go", Vendor: t.vendor}
	for dir, name := range map[string]string{b.cfg.GoRoot: "VERSION", sdk: "."} {
		digest, err := digestFiles(dir, name)
		if err != nil {
			return made{}, err
		}
		in.Tools = append(in.Tools, name+" "+string(digest))
	}
	slices.Sort(in.Tools)
	var err error
	if in.Files, err = digestFiles(t.dir, "."); err != nil {
		return made{}, err
	}
	m, err := b.once(ctx, in, func() (m made, err error) {
		if err := b.compileNow(ctx, t, sdk, in.Tools); err != nil {
			return m, err
		}
		m.Code, m.CodeBytes, err = b.store(ctx, t.dir, filepath.Join(t.work, "artifact"))
		return m, err
	})
	if m.cached {
		t.say("nothing changed: the binary is that of an earlier build")
	}
	return m, err
}

func (b *Builder) compileNow(ctx context.Context, t task, sdk string, tools []string) error {
	cache, release, err := b.openCache(t.namespace)
	if err != nil {
		return err
	}
	defer release()
	if err := giveAway(t.dir); err != nil {
		return err
	}
	job := Job{
		ID: t.id, Runtime: functions.RuntimeProvided, WorkDir: sourceMount,
		Folders: map[string]Folder{
			sourceMount: {Path: t.dir, Writable: true},
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
	if err := b.beginGoCache(ctx, tools, job, cache); err != nil {
		b.log.Warn("a Go build compiles the standard library itself", "build", t.id, telemetry.KeyError, err)
	}
	if !t.vendor && needsModules(t.dir) {
		fetch := step{Job: job, what: "go modules could not be fetched", setting: "GOPROXY", index: goProxy(b.cfg.GoEnv)}
		fetch.ID += "-fetch"
		fetch.Network = true
		fetch.Script = goFetch
		fetch.Env = append(append(slices.Clone(job.Env), "GOFLAGS=-modcacherw"), b.cfg.GoEnv...)
		if err := b.run(ctx, t, fetch); err != nil {
			return err
		}
	}
	job.Script = goCompile
	job.Env = append(slices.Clone(job.Env), "GOPROXY=off", "GOFLAGS="+goFlags(t.dir))
	if err := b.run(ctx, t, step{Job: job, what: "go build failed"}); err != nil {
		return err
	}
	if err := requireBinary(t.dir); err != nil {
		return err
	}
	return keepBinary(t.dir)
}

// goProxy is the host that modules are fetched from first.
func goProxy(env []string) string {
	first, _, _ := strings.Cut(setting(env, "GOPROXY"), ",")
	return hostOf(first, "the modules' own servers")
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
