package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) (code int) {
	if role := os.Getenv(crashEnv); role != "" {
		return crash(role)
	}
	dir, err := os.MkdirTemp("", "dayfly-oci-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shared.dir = dir
	if code = m.Run(); code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// shared is a folder whose root file system is unpacked once for all tests.
var shared struct {
	dir   string
	ready sync.Once
}

// sharedDir returns the folder, with the suite's root in it.
func sharedDir(t testing.TB) string {
	t.Helper()
	shared.ready.Do(func() {
		s := open(t, shared.dir, "root", "")
		err := s.EnsureRoot(context.Background(), sandboxtest.Root(true))
		if err := errors.Join(err, s.Close(context.Background())); err != nil {
			t.Fatal(err)
		}
	})
	return shared.dir
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open makes a sandbox whose roots are under dir; the caller closes it.
func open(t testing.TB, dir, owner, runtime string) *Sandbox {
	t.Helper()
	s, err := New(Config{Owner: owner, Dir: dir, Runtime: runtime}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openReady makes a sandbox with the suite's root, which is closed with the test.
func openReady(t testing.TB, owner, runtime string) *Sandbox {
	t.Helper()
	s := open(t, sharedDir(t), owner, runtime)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, name := range candidates() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := sharedDir(t)
			sandboxtest.Run(t, func(t *testing.T, owner string) sandbox.Sandbox { return open(t, dir, owner, name) }, sandboxtest.Features{
				Processes:   true,
				Unavailable: func(t *testing.T) sandbox.Sandbox { return openGone(t, dir, name) },
			})
		})
	}
}

// openGone makes a sandbox whose runtime is uninstalled afterwards.
func openGone(t *testing.T, dir, name string) *Sandbox {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(copied, content, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, t.Name(), copied)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	return s
}

// plainSpec describes a container without mounts, limited as a small function is.
func plainSpec(command ...string) sandbox.Spec {
	return sandbox.Spec{
		Instance: wire.InstanceID(uuid.NewString()), Root: sandboxtest.Root(true), Command: command, WorkDir: "/",
		Env:     []string{"PATH=/usr/bin:/bin"},
		Tmpfs:   []sandbox.Tmpfs{{Target: "/tmp", Bytes: 16 << 20, Mode: 0o777 | os.ModeSticky, Exec: true}},
		Limits:  sandbox.Limits{MemoryBytes: 128 << 20, CPUMillis: 1000, CPUShareMillis: 250, PIDs: 64, OpenFiles: 256, FileBytes: 4 << 20},
		Network: sandbox.NetworkNone,
		UID:     65532, GID: 65532,
	}
}
