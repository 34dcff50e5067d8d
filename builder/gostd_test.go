package builder

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/wire"
)

// trimNote is where Go notes when it last removed from a cache what had not been used.
const trimNote = "trim.txt"

// standard is a runner that has its double of the standard library, and another one for
// all else.
type standard struct{ Runner }

func (s standard) Run(ctx context.Context, job Job, out io.Writer) error {
	if job.Script != goStandard {
		return s.Runner.Run(ctx, job, out)
	}
	cache := filepath.Join(job.Folders[cacheMount].Path, "build")
	dir := filepath.Join(cache, "00")
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "fmt-d"), []byte("compiled"), 0o644),
		os.WriteFile(filepath.Join(cache, trimNote), []byte("1"), 0o644))
}

// TestStandardLibrary: it is compiled once, where no bundle is in reach, and the cache of
// each namespace begins with it, without a way to change it.
func TestStandardLibrary(t *testing.T) {
	var mu sync.Mutex
	var jobs []Job
	var linked []os.FileInfo
	w := newWorkshop(t, nil)
	w.deps.Runner = runner(func(ctx context.Context, job Job) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		jobs = append(jobs, job)
		if job.Script == goStandard {
			return "", standard{}.Run(ctx, job, io.Discard)
		}
		cache := filepath.Join(job.Folders[cacheMount].Path, "build")
		if _, err := os.Lstat(filepath.Join(cache, trimNote)); err == nil {
			t.Errorf("the cache has another one's %s, which its builds cannot write", trimNote)
		}
		info, err := os.Stat(filepath.Join(cache, "00", "fmt-d"))
		linked = append(linked, info)
		return "", errors.Join(err, compile(job))
	})
	bundle := files{"dayfly.yaml": golang, "main.go": ""}
	for n, namespace := range []string{"a", "b", "a"} {
		bundle["main.go"] += "\n" // or it would not be built again
		key := w.upload(bundle, []string{"dayfly.yaml", "main.go"}, time.Unix(1, 0))
		if reply := w.ask(wire.BuildRequest{ID: namespace, Bundle: key, Namespace: namespace}); reply.Error != nil || reply.Log != "" {
			t.Fatalf("build %d: %+v", n, reply)
		}
	}
	scripts := make([]string, 0, len(jobs))
	for _, job := range jobs {
		scripts = append(scripts, job.Script)
	}
	if want := []string{goStandard, goCompile, goCompile, goCompile}; !slices.Equal(scripts, want) {
		t.Fatalf("jobs %q", scripts)
	}
	if _, reaches := jobs[0].Folders[sourceMount]; reaches || jobs[0].Network {
		t.Errorf("the standard library is compiled with %+v", jobs[0])
	}
	for _, info := range linked {
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok || owner.Uid != 0 || info.Mode().Perm() != 0o444 || !os.SameFile(info, linked[0]) {
			t.Errorf("mode %s, owner %+v", info.Mode(), owner)
		}
	}
}

// age makes a Go cache, and what Go notes in it, a week older than it is.
func age(cache string) error {
	at := time.Now().Add(-7 * 24 * time.Hour)
	note := filepath.Join(cache, trimNote)
	return errors.Join(
		filepath.WalkDir(cache, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(path, at, at)) }),
		os.WriteFile(note, []byte(strconv.FormatInt(at.Unix(), 10)), 0o644), os.Chown(note, BuildUID, BuildUID))
}

// TestGoKeepsStandardLibrary: what all share neither keeps the Go command from trimming a
// namespace's cache nor is trimmed.
func TestGoKeepsStandardLibrary(t *testing.T) {
	module := t.TempDir()
	write(t, module, files{"go.mod": "module standard\n", "standard.go": "package standard\n\nconst X = 1\n"})
	w := newWorkshop(t, nil)
	w.deps.Runner = runner(func(ctx context.Context, job Job) (string, error) {
		cache := filepath.Join(job.Folders[cacheMount].Path, "build")
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `cd "$0" && exec go build -v .`, module)
		cmd.Env = append(os.Environ(), "GOCACHE="+cache, "HOME="+t.TempDir(), "GOTOOLCHAIN=local", "GOTELEMETRY=off", "GOFLAGS=")
		// The build user, who may only read what other users' toolchains are.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: BuildUID, Gid: BuildUID}, AmbientCaps: []uintptr{unix.CAP_DAC_READ_SEARCH}}
		said, err := cmd.CombinedOutput()
		if job.Script == goStandard {
			return string(said), errors.Join(err, age(cache))
		}
		return string(said), errors.Join(err, compile(job))
	})
	for n := range 3 {
		reply := w.build(files{"dayfly.yaml": golang, "main.go": strings.Repeat("\n", n)})
		if reply.Error != nil || reply.Log != "" { // which names what is compiled
			t.Errorf("build %d: %v; log %q", n, reply.Error, reply.Log)
		}
		shared, err := filepath.Glob(filepath.Join(w.cfg.DataDir, "gostd", "*"))
		if err != nil || len(shared) != 1 {
			t.Fatalf("shared are %q, %v", shared, err)
		}
		if err := errors.Join(age(shared[0]), age(filepath.Join(w.cfg.DataDir, "cache", "default", "build"))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBuildsWaitTheirTurn: who waits for what another namespace's build is making does not
// wait past its own end.
func TestBuildsWaitTheirTurn(t *testing.T) {
	b := New(Config{DataDir: t.TempDir()}, Deps{Metrics: prometheus.NewRegistry()})
	gone := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	for _, taken := range []turn{b.npm, b.goStandard} {
		done, err := taken.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer done()
	}
	if err := b.beginGoCache(ctx, nil, Job{}, t.TempDir()); !errors.Is(err, gone) {
		t.Errorf("the standard library: %v", err)
	}
	if _, err := b.npmTool(ctx); err == nil {
		t.Error("npm is there")
	}
}

// TestStandardLibraryIsBounded: its compiler may take no more of the disk than a build, and
// what it says is not lost.
func TestStandardLibraryIsBounded(t *testing.T) {
	b := New(Config{DataDir: t.TempDir(), DiskBytes: 1 << 20}, Deps{Metrics: prometheus.NewRegistry(), Runner: runner(func(ctx context.Context, job Job) (string, error) {
		large := filepath.Join(job.Folders[cacheMount].Path, "large")
		if err := os.WriteFile(large, make([]byte, 2<<20), 0o644); err != nil {
			return "", err
		}
		<-ctx.Done()
		return "the compiler's words", context.Cause(ctx)
	})})
	if err := os.MkdirAll(filepath.Join(b.cfg.DataDir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := b.beginGoCache(t.Context(), nil, Job{}, t.TempDir())
	if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "the compiler's words") {
		t.Error(err)
	}
}

// TestWithoutStandardLibrary: a build goes on with an empty cache.
func TestWithoutStandardLibrary(t *testing.T) {
	w := newWorkshop(t, nil)
	w.deps.Runner = runner(func(_ context.Context, job Job) (string, error) {
		if job.Script == goStandard {
			return "", errors.New("no containers just now")
		}
		return "", compile(job)
	})
	if reply := w.build(files{"dayfly.yaml": golang, "main.go": "package main"}); reply.Error != nil {
		t.Error(reply.Error)
	}
}
