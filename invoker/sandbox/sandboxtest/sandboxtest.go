// Package sandboxtest is the one suite that every sandbox passes. It looks at
// containers from the host, through the kernel, and from inside with a probe.
package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// patience bounds every wait that has no bound of its own.
	patience = 2 * time.Minute
	// killBound is how long all processes may take to end after Kill, on a machine
	// that other tests keep busy.
	killBound = 5 * time.Second
	// tick is the pause between two looks at something that cannot be waited for.
	tick = 10 * time.Millisecond
)

// New makes a sandbox for an owner. Several for the same owner, one after the
// other, share the engine. The suite closes it.
type New func(t *testing.T, owner string) sandbox.Sandbox

// Features say which parts of the suite a sandbox is up to.
type Features struct {
	// Processes says that containers run real programs of this host's kernel.
	// Without it a container plays two commands, see [Exit] and [Wait].
	Processes bool
	// Unavailable makes a sandbox whose engine does not answer.
	Unavailable func(t *testing.T) sandbox.Sandbox
}

// Exit is the command that ends at once with a status.
func Exit(status string) []string { return probe("exit", status) }

// Wait is the command that runs until it is killed.
func Wait() []string { return probe("wait") }

func probe(args ...string) []string { return append([]string{"/probe/probe"}, args...) }

// Run runs the suite.
func Run(t *testing.T, create New, f Features) {
	t.Helper()
	tests := map[string]func(h *harness){
		"Exit": testExit, "Kill": testKill, "Remove": testRemove, "StartFails": testStartFails,
		"StartCancelled": testStartCancelled, "Sweep": testSweep, "SweepAfterCrash": testSweepAfterCrash,
		"Concurrent": testConcurrent, "SameInstance": testSameInstance, "Unavailable": testUnavailable,
		"Listen": testListen, "Roots": testRoots,
	}
	if f.Processes {
		maps.Copy(tests, realTests())
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newHarness(t, create, f))
		})
	}
}

// harness is one test's sandbox.
type harness struct {
	*testing.T
	sandbox.Sandbox
	ctx      context.Context
	owner    string
	create   New
	features Features
	root     sandbox.Root
}

func newHarness(t *testing.T, create New, f Features) *harness {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	h := &harness{T: t, ctx: ctx, owner: "test/" + uuid.NewString(), create: create, features: f, root: Root(f.Processes)}
	h.Sandbox = h.open(h.owner)
	if err := h.EnsureRoot(h.ctx, h.root); err != nil {
		t.Fatal(err)
	}
	return h
}

// open makes a sandbox that is swept, checked for leftovers and closed with the
// test.
func (h *harness) open(owner string) sandbox.Sandbox {
	h.Helper()
	s := h.create(h.T, owner)
	h.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		left, err := s.Sweep(ctx)
		if err = errors.Join(err, s.Close(ctx)); err != nil || left != 0 {
			h.Errorf("at the end of the test: %d containers of %s were left; %v", left, owner, err)
		}
	})
	return s
}

// Root is the root file system that the suite uses; one that is not real is only
// a name.
func Root(isReal bool) sandbox.Root {
	if !isReal {
		return sandbox.Root{Name: "base", Digest: wire.Digest(strings.Repeat("ab", 32))}
	}
	rt, _ := runtimes.Lookup("provided")
	return sandbox.Root{Name: rt.Root(), Digest: rt.RootDigest(), Open: func(ctx context.Context) (io.ReadCloser, error) {
		dir, err := os.MkdirTemp("", "dayfly-root-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir) // the open file outlives it
		path := filepath.Join(dir, "root.tar")
		if err := runtimes.BuildRoot(ctx, rt, path, io.Discard); err != nil {
			return nil, err
		}
		return os.Open(path)
	}}
}

// program compiles the probe, once.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "dayfly-probe-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "probe")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(err, errors.New(string(out)))
	}
	return os.ReadFile(path)
})

// spec describes a container that runs a command, as an invoker would.
func (h *harness) spec(command []string) sandbox.Spec {
	h.Helper()
	return Spec(h.T, h.features.Processes, command)
}

// Spec describes a container with the probe at /probe and a folder for its answers
// at /out, limited as a small function is. Real ones get a real probe.
func Spec(t *testing.T, isReal bool, command []string) sandbox.Spec {
	t.Helper()
	dir := t.TempDir()
	bin, out := filepath.Join(dir, "bin"), filepath.Join(dir, "out")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Mkdir(out, 0o755), os.Chmod(out, 0o777)); err != nil {
		t.Fatal(err)
	}
	if isReal {
		content, err := program()
		if err == nil {
			err = os.WriteFile(filepath.Join(bin, "probe"), content, 0o755)
		}
		if err != nil {
			t.Fatal("compile the probe:", err)
		}
	}
	return sandbox.Spec{
		Instance: wire.InstanceID(uuid.NewString()),
		Root:     Root(isReal),
		Command:  command,
		Env:      []string{"PATH=/usr/bin:/bin", "PROBE=" + uuid.NewString()},
		WorkDir:  "/",
		Mounts: []sandbox.Mount{
			{Source: bin, Target: "/probe", ReadOnly: true},
			{Source: out, Target: "/out"},
		},
		Tmpfs: []sandbox.Tmpfs{
			{Target: "/tmp", Bytes: 16 << 20, Mode: 0o777 | os.ModeSticky, Exec: true},
			{Target: "/mnt/output", Bytes: 8 << 20, Mode: 0o777 | os.ModeSticky},
		},
		Limits: sandbox.Limits{
			MemoryBytes: 128 << 20, CPUMillis: 1000, CPUShareMillis: 250,
			PIDs: 64, OpenFiles: 256, FileBytes: 4 << 20,
		},
		Network: sandbox.NetworkNone,
		UID:     65532, GID: 65532,
	}
}

// Log returns what the probe has written.
func Log(t *testing.T, spec sandbox.Spec) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(outOf(t, spec), "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content)
}

// outOf is the folder that a container has as /out.
func outOf(t *testing.T, spec sandbox.Spec) string {
	t.Helper()
	for _, m := range spec.Mounts {
		if m.Target == "/out" {
			return m.Source
		}
	}
	t.Fatal("the spec has no /out")
	return ""
}

// start starts a container that is removed with the test.
func (h *harness) start(spec sandbox.Spec) sandbox.Container {
	h.Helper()
	return Start(h.T, h.Sandbox, spec)
}

// Start starts a container, which is removed with the test.
func Start(t *testing.T, s sandbox.Sandbox, spec sandbox.Spec) sandbox.Container {
	t.Helper()
	c, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Remove(ctx); err != nil {
			t.Error("remove:", err)
		}
	})
	return c
}

// Finish runs a container to its end and returns how it ended and what it wrote.
func Finish(t *testing.T, s sandbox.Sandbox, spec sandbox.Spec) (sandbox.Exit, string) {
	t.Helper()
	c := Start(t, s, spec)
	Await(t, c.Exited(), "the container's end")
	return c.Exit(), Log(t, spec)
}

// run runs a command to its end, which must be good, and returns what it wrote.
func (h *harness) run(command []string, change ...func(*sandbox.Spec)) string {
	h.Helper()
	spec := h.spec(command)
	for _, f := range change {
		f(&spec)
	}
	exit, log := Finish(h.T, h.Sandbox, spec)
	if exit.Code != 0 {
		h.Fatalf("%q ended with %+v: %s", command, exit, log)
	}
	return log
}

// Await waits until a channel is closed.
func Await(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("waited %s for %s", patience, what)
	}
}

// Eventually looks until something is so, or the bound has passed.
func Eventually(t *testing.T, bound time.Duration, what string, look func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for !look() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", bound, what)
		case <-ticker.C:
		}
	}
}

// AwaitLog waits until the probe has written a line with that text.
func AwaitLog(t *testing.T, spec sandbox.Spec, text string) {
	t.Helper()
	Eventually(t, patience, "the probe says "+text, func() bool { return strings.Contains(Log(t, spec), text) })
}

// namespace is the PID namespace of the container.
func namespace(t *testing.T, spec sandbox.Spec) string {
	t.Helper()
	ns, err := os.Readlink(filepath.Join(find(t, spec), "ns/pid"))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// find returns the folder in /proc of a process of the container, which the suite
// knows by a variable that only its processes have. It waits for the first one.
func find(t *testing.T, spec sandbox.Spec) string {
	t.Helper()
	mark := []byte(spec.Env[len(spec.Env)-1])
	found := ""
	Eventually(t, patience, "the container's process is seen", func() bool {
		environs, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range environs {
			content, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(content, mark) {
				continue // another one, or gone meanwhile
			}
			if ns, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/pid")); err == nil && ns != hostNamespace(t) {
				found = filepath.Dir(path)
				return true
			}
		}
		return false
	})
	return found
}

func hostNamespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// population counts the processes of a PID namespace.
func population(t *testing.T, ns string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range links {
		if target, err := os.Readlink(path); err == nil && target == ns {
			n++
		}
	}
	return n
}
