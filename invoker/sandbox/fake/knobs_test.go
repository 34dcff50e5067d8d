package fake_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

var root = sandbox.Root{Name: "base", Digest: wire.Digest(strings.Repeat("0", 64))}

// ready makes a sandbox with its root ready.
func ready(t *testing.T, k fake.Knobs) *fake.Sandbox {
	t.Helper()
	s := fake.New("node", k)
	if err := s.EnsureRoot(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKnobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := ready(t, fake.Knobs{StartDelay: 270 * time.Millisecond, ExitCode: 3, OutOfMemory: true})
		begun := time.Now()
		c, err := s.Start(t.Context(), sandbox.Spec{Instance: "a", Root: root})
		if err != nil || time.Since(begun) != 270*time.Millisecond {
			t.Fatalf("after %s: %v", time.Since(begun), err)
		}
		<-c.Exited()
		if got := c.Exit(); got != (sandbox.Exit{Code: 3, OutOfMemory: true}) {
			t.Errorf("%+v", got)
		}
		if err := c.Remove(t.Context()); err != nil {
			t.Error(err)
		}

		s.Set(func(k *fake.Knobs) { k.Hang = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := s.Start(ctx, sandbox.Spec{Instance: "b", Root: root}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) < time.Hour {
			t.Errorf("it hung until %v", err)
		}

		broken := errors.New("broken")
		s.Set(func(k *fake.Knobs) { *k = fake.Knobs{StartError: broken, CheckError: broken} })
		if _, err := s.Start(t.Context(), sandbox.Spec{Instance: "c", Root: root}); !errors.Is(err, broken) {
			t.Error(err)
		}
		if err := s.Check(t.Context()); !errors.Is(err, broken) {
			t.Error(err)
		}
		if s.Live() != 0 || s.Started() != 1 {
			t.Errorf("%d live, %d started", s.Live(), s.Started())
		}
	})
}

// TestDeaf: a Run that does not heed its context bounds nothing else.
func TestDeaf(t *testing.T) {
	t.Parallel()
	let := make(chan struct{})
	s := ready(t, fake.Knobs{Run: func(context.Context, fake.Process) int { <-let; return 0 }})
	c, err := s.Start(t.Context(), sandbox.Spec{Instance: "a", Root: root})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Remove(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(let)
	if err := c.Remove(t.Context()); err != nil || s.Live() != 0 {
		t.Errorf("%v, %d live", err, s.Live())
	}
}

// TestPaths: what Run and the host's OpenDir see is the same.
func TestPaths(t *testing.T) {
	t.Parallel()
	task := t.TempDir()
	wrote, dir := make(chan error, 1), ""
	s := ready(t, fake.Knobs{Run: func(ctx context.Context, p fake.Process) int {
		output, err := p.Path("/mnt/output/file")
		if err == nil {
			dir = filepath.Dir(output)
			err = os.WriteFile(output, []byte("output"), 0o600)
		}
		code, e := p.Path("/var/task/code")
		wrote <- errors.Join(err, e, os.WriteFile(code, []byte("code"), 0o600))
		<-ctx.Done()
		return 0
	}})
	c, err := s.Start(t.Context(), sandbox.Spec{
		Instance: "a", Root: root, Env: []string{"A=1", "A=2=3"},
		Mounts: []sandbox.Mount{{Source: filepath.Dir(task), Target: "/var"}, {Source: task, Target: "/var/task"}},
		Tmpfs:  []sandbox.Tmpfs{{Target: "/mnt/output"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(task, "code")); string(content) != "code" {
		t.Error(err)
	}
	inside, err := c.OpenDir("/mnt/output")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if content, err := inside.ReadFile("file"); string(content) != "output" {
		t.Error(err)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder %s is left: %v", dir, err)
	}
}

// TestDial reaches the container's port from its process, and no other.
func TestDial(t *testing.T) {
	t.Parallel()
	listening, said := make(chan struct{}), make(chan string, 1)
	s := ready(t, fake.Knobs{Run: func(ctx context.Context, p fake.Process) int {
		<-listening
		if _, err := p.Dial(ctx, "tcp", "127.0.0.1:9002"); err == nil {
			return 1
		}
		c, err := p.Dial(ctx, "tcp", "127.0.0.1:9001")
		if err != nil {
			return 2
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		said <- string(all)
		return 0
	}})
	c, err := s.Start(t.Context(), sandbox.Spec{Instance: "a", Root: root})
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Listen(9001)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	close(listening)
	inside, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(inside, "hello")
	_ = inside.Close()
	<-c.Exited()
	if got := <-said; got != "hello" || c.Exit().Code != 0 {
		t.Errorf("%q, %+v", got, c.Exit())
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestHandler plays functions against the real Runtime API.
func TestHandler(t *testing.T) {
	t.Parallel()
	s := ready(t, fake.Knobs{Run: fake.Handler(func(event []byte) ([]byte, error) {
		if bytes.Equal(event, []byte(`"bad"`)) {
			return nil, errors.New("no good")
		}
		return append([]byte("got "), event...), nil
	})})
	var group sync.WaitGroup
	for _, id := range []wire.InstanceID{"a", "b", "c"} {
		group.Go(func() { converse(t, s, id) })
	}
	group.Wait()
	if s.Live() != 0 {
		t.Errorf("%d containers are left", s.Live())
	}
}

func converse(t *testing.T, s sandbox.Sandbox, id wire.InstanceID) {
	t.Helper()
	dir := t.TempDir()
	api := runtimeapi.New()
	api.Assign(runtimeapi.Assignment{})
	l, err := net.Listen("unix", filepath.Join(dir, "runtime.sock"))
	if err != nil {
		t.Error(err)
		return
	}
	server := &http.Server{Handler: api}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	c, err := s.Start(t.Context(), sandbox.Spec{
		Instance: id, Root: root, Env: []string{"DAYFLY_RUNTIME_SOCKET=/run/dayfly/runtime.sock"},
		Mounts: []sandbox.Mount{{Source: dir, Target: "/run/dayfly"}},
	})
	if err != nil {
		t.Error(err)
		return
	}
	for _, event := range []string{`1`, `"bad"`, `{"x":"é"}`} {
		got, err := api.Invoke(t.Context(), runtimeapi.Event{ID: "i-1", Payload: []byte(event), Deadline: time.Now().Add(time.Minute)})
		switch {
		case event == `"bad"`:
			if !wire.HasCode(err, wire.CodeFunctionError) || !strings.Contains(err.Error(), "no good") {
				t.Errorf("%v", err)
			}
		case err != nil || string(got) != "got "+event:
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
