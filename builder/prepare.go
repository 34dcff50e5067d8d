package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Where a build container has things.
const (
	sourceMount = "/build/source"
	wantMount   = "/build/want"
	layerMount  = "/build/layer"
	npmMount    = "/build/npm"
	tmpMount    = "/build/tmp"
	sdkMount    = "/build/sdk"
	goMount     = "/usr/local/go"
	cacheMount  = "/build/cache"
)

// task is one build.
type task struct {
	id, namespace string
	// vendor says that nothing is fetched.
	vendor bool
	// work is a folder of the build's own; dir, in it, has the bundle's files.
	work, dir string
	spec      functions.Spec
	out       io.Writer
}

// say prints a line of the builder's own into the build's log.
func (t task) say(format string, args ...any) {
	_, _ = fmt.Fprintf(t.out, "[dayfly: "+format+"]\n", args...)
}

// prepare turns the bundle into what an instance sees, by runtime, and checks that the
// handler is there.
func (b *Builder) prepare(ctx context.Context, t task) (made made, err error) {
	switch t.spec.Runtime {
	case functions.RuntimePython:
		if err := requireModule(t.dir, t.spec.Handler, ".py", "/__init__.py"); err != nil {
			return made, err
		}
		made.cached, err = b.pythonPackages(ctx, t)
	case functions.RuntimeNode:
		if err := requireModule(t.dir, t.spec.Handler, ".mjs", ".js", ".cjs"); err != nil {
			return made, err
		}
		made.cached, err = b.nodePackages(ctx, t)
	case functions.RuntimeProvided:
		err = requireBootstrap(t.dir)
	case functions.RuntimeGo, functions.RuntimeImage:
		return b.prepareNative(ctx, t)
	default:
		err = wire.Errorf(wire.CodeInvalid, "this builder does not know the runtime %q; upgrade it", t.spec.Runtime)
	}
	if err != nil {
		return made, err
	}
	if made.arch, err = archOf(t.dir); err != nil {
		return made, err
	}
	if err := checkArch(t, made.arch); err != nil {
		return made, err
	}
	made.Code, made.CodeBytes, err = b.store(ctx, t.dir, filepath.Join(t.work, "artifact"))
	return made, err
}

// prepareNative makes what runs on machines like this one only.
func (b *Builder) prepareNative(ctx context.Context, t task) (made made, err error) {
	if err := checkArch(t, runtime.GOARCH); err != nil {
		return made, err
	}
	if t.spec.Runtime == functions.RuntimeImage {
		made, err = b.image(ctx, t)
	} else {
		made, err = b.compile(ctx, t)
	}
	made.arch = runtime.GOARCH
	return made, err
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

// step is a job as a part of a build.
type step struct {
	Job
	// what failed, when it does; the tool's own words lead.
	what string
	// telling finds those of the tool's lines that say why; nil for all of them.
	telling func(line string) bool
	// index is where it fetches from, and setting what names another place; both are
	// empty for a step without a network.
	index, setting string
}

// run runs a step within its bounds; a failed command is the bundle's fault.
func (b *Builder) run(ctx context.Context, t task, s step) error {
	said, err := b.runWatched(ctx, s.Job, t.out)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDisk):
		return wire.Errorf(wire.CodeTooLarge, "%s: %s", s.what, err)
	case errors.Is(err, ErrJob):
		return wire.Errorf(wire.CodeInvalid, "%s", s.explain(said))
	}
	return b.jobFailed(ctx, s.what, said, err)
}

// runWatched runs a job within its bounds and returns what it printed, with its middle
// left out if it is long. The error of one that took too much of the disk has [errDisk].
func (b *Builder) runWatched(ctx context.Context, job Job, out io.Writer) (said string, err error) {
	var printed clip
	watched, stop := b.watch(ctx, job)
	err = b.deps.Runner.Run(watched, job, io.MultiWriter(&printed, out))
	over := context.Cause(watched)
	stop()
	if err != nil && errors.Is(over, errDisk) {
		err = over
	}
	return printed.String(), err
}

// explain is what a failed step tells the user: first why, in the tool's words, then
// what failed and what to do.
func (s step) explain(said string) string {
	why := said
	if s.telling != nil {
		var lines []string
		for line := range strings.Lines(said) {
			if s.telling(line) {
				lines = append(lines, line)
			}
		}
		if len(lines) > 0 {
			why = strings.Join(lines, "")
		}
	}
	text := strings.TrimSpace(strings.TrimSpace(why) + "\n" + s.what)
	if s.index != "" && unreachable(said) {
		text += fmt.Sprintf(": %s could not be reached from the build; name another index with %s where the builder is started, "+
			"or put the dependencies into the folder and deploy with --vendor", s.index, s.setting)
	}
	return text
}

// unreachable says whether a tool's words mean that nobody answered.
func unreachable(said string) bool {
	for _, sign := range []string{
		"Failed to establish a new connection", "Max retries exceeded", "Temporary failure in name resolution", "Name or service not known",
		"Connection refused", "connection refused", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError", "EAI_AGAIN", "ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT",
		"ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "no such host", "i/o timeout", "network is unreachable", "server misbehaving",
	} {
		if strings.Contains(said, sign) {
			return true
		}
	}
	return false
}

// jobFailed says whose fault it is that a job failed.
func (b *Builder) jobFailed(ctx context.Context, what, out string, err error) error {
	out = strings.TrimSpace(out)
	switch cause := context.Cause(ctx); {
	case errors.Is(err, ErrJob):
		return wire.Errorf(wire.CodeInvalid, "%s", strings.TrimSpace(out+"\n"+what))
	case errors.Is(cause, errStopping), errors.Is(cause, errDeserted):
		return wire.Errorf(wire.CodeUnavailable, "%s: %s", what, cause)
	case ctx.Err() != nil:
		return wire.Errorf(wire.CodeInvalid, "%s", strings.TrimSpace(fmt.Sprintf("%s\n%s: the build took longer than %s", out, what, b.cfg.Timeout)))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// BuildUID is the user that build containers run as.
const BuildUID = 65532

// giveAway makes folders and what is in them the build user's.
func giveAway(folders ...string) error {
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, BuildUID, BuildUID) //nolint:gosec // nobody else writes there yet
		})
		if err != nil {
			return fmt.Errorf("give a folder to the build user: %w", err)
		}
	}
	return nil
}

// makeFolder makes a folder that the build user reads.
func makeFolder(path string) error {
	//nolint:gosec // as said
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("make build folder: %w", err)
	}
	return nil
}
