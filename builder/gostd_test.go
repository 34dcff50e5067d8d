package builder

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// standard is a runner that has its double of the standard library, and another one for
// all else.
type standard struct{ Runner }

func (s standard) Run(ctx context.Context, job Job, out io.Writer) error {
	if job.Script != goStandard {
		return s.Runner.Run(ctx, job, out)
	}
	dir := filepath.Join(job.Folders[cacheMount].Path, "build", "00")
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "fmt-d"), []byte("compiled"), 0o644))
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
		info, err := os.Stat(filepath.Join(job.Folders[cacheMount].Path, "build", "00", "fmt-d"))
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
