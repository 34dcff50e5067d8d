package docker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

// engineSocket is where the tests' engine listens.
const engineSocket = "/var/run/docker.sock"

// gate stands before the engine and can lose its answers, or the engine as a whole.
type gate struct {
	t      *testing.T
	socket string
	proxy  *httputil.ReverseProxy

	mu        sync.Mutex
	server    *http.Server                 // guarded by mu; nil while it is closed
	answer    func(r *http.Response) error // guarded by mu: sees each answer
	forgotten string                       // guarded by mu: the ID of a container; empty for none
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t, socket: filepath.Join(t.TempDir(), "s")}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", engineSocket)
	}}
	g.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	g.proxy.Transport, g.proxy.FlushInterval = transport, -1
	g.proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	g.proxy.ModifyResponse = func(r *http.Response) error {
		g.mu.Lock()
		answer := g.answer
		g.mu.Unlock()
		if answer == nil {
			return nil
		}
		return answer(r)
	}
	g.open()
	t.Cleanup(func() {
		g.close()
		transport.CloseIdleConnections()
	})
	return g
}

func (g *gate) open() {
	g.t.Helper()
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	server := &http.Server{Handler: g}
	g.server = server
	go func() { _ = server.Serve(l) }()
}

// forget makes the engine know nothing of a container, as one that was stopped while it
// started it; with an empty ID it knows all again.
func (g *gate) forget(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgotten = id
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	id := g.forgotten
	g.mu.Unlock()
	if id != "" && strings.Contains(r.URL.Path, "/containers/"+id) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"No such container"}`))
		return
	}
	g.proxy.ServeHTTP(w, r)
}

// close breaks all connections, as an engine that dies does.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.server != nil {
		_ = g.server.Close()
		g.server = nil
	}
}

// onAnswer calls do when the engine has done what the path's end asks for, before
// we hear of it. An error of do loses the answer.
func (g *gate) onAnswer(suffix string, do func() error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = func(r *http.Response) error {
		if strings.HasSuffix(r.Request.URL.Path, suffix) && r.Request.Method == http.MethodPost {
			return do()
		}
		return nil
	}
}

// behind makes a sandbox behind a gate, with the suite's root ready.
func behind(t *testing.T) (*Sandbox, *gate) {
	t.Helper()
	g := newGate(t)
	s := openAt(t, "test/"+uuid.NewString(), g.socket)
	if err := s.EnsureRoot(t.Context(), sandboxtest.Root(true)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := containers(t, s.owner); len(left) != 0 {
			t.Errorf("containers are left: %v", left)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, g
}

// containers asks the engine itself for an owner's.
func containers(t *testing.T, owner string) []string {
	t.Helper()
	s := open(t, owner)
	defer s.client.Close()
	list, err := s.client.ContainerList(context.Background(), container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelOwner+"="+owner)),
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids
}

// TestStartCancelledBetween ends the context when the engine has done one step
// and we have not heard of it.
func TestStartCancelledBetween(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"/create", "/start"} {
		t.Run(step[1:], func(t *testing.T) {
			t.Parallel()
			s, g := behind(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			g.onAnswer(step, func() error {
				if n := len(containers(t, s.owner)); n != 1 {
					t.Errorf("there are %d containers after %s", n, step)
				}
				cancel()
				return nil
			})
			if c, err := s.Start(ctx, sandboxtest.Spec(t, true, sandboxtest.Wait())); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, %v", c, err)
			}
			if left := containers(t, s.owner); len(left) != 0 {
				t.Errorf("containers are left: %v", left)
			}
		})
	}
}

// TestAnswerLost: the engine did what it was asked for, and its answer got lost.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"/create", "/start"} {
		t.Run(step[1:], func(t *testing.T) {
			t.Parallel()
			s, g := behind(t)
			g.onAnswer(step, func() error { return errors.New("lost") })
			if c, err := s.Start(t.Context(), sandboxtest.Spec(t, true, sandboxtest.Wait())); !errors.Is(err, sandbox.ErrUnavailable) {
				t.Errorf("%v, %v", c, err)
			}
			if left := containers(t, s.owner); len(left) != 0 {
				t.Errorf("containers are left: %v", left)
			}
		})
	}
}

// TestEngineLost takes the engine away from under a container.
func TestEngineLost(t *testing.T) {
	t.Parallel()
	s, g := behind(t)
	spec := sandboxtest.Spec(t, true, sandboxtest.Wait())
	c := sandboxtest.Start(t, s, spec)
	sandboxtest.AwaitLog(t, spec, "ready")
	g.close()
	if err := s.Check(t.Context()); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("Check says %v", err)
	}
	if _, err := s.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("Start says %v", err)
	}
	// What runs, runs on, and everything that needs no engine works.
	select {
	case <-c.Exited():
		t.Error("the container ended with the engine:", c.Exit())
	default:
	}
	if dir, err := c.OpenDir("/tmp"); err != nil || dir.Close() != nil {
		t.Error(err)
	}
	if l, err := c.Listen(9001); err != nil || l.Close() != nil {
		t.Error(err)
	}
	c.Kill()
	sandboxtest.Await(t, c.Exited(), "the end after Kill, without the engine")
	if exit := c.Exit(); exit.Code != 137 {
		t.Errorf("killed, it says %+v", exit)
	}
	// Remove is bounded while the engine is away, and works when it is back.
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Remove(short); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("Remove without the engine says %v", err)
	}
	removed := make(chan error, 1)
	go func() { removed <- c.Remove(t.Context()) }()
	g.open()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestEndUnknown: a process that ended by itself while the engine was away.
func TestEndUnknown(t *testing.T) {
	t.Parallel()
	s, g := behind(t)
	c, err := s.Start(t.Context(), sandboxtest.Spec(t, true, sandboxtest.Wait()))
	if err != nil {
		t.Fatal(err)
	}
	g.close()
	if err := c.(*instance).process.Kill(); err != nil { // not by the sandbox
		t.Fatal(err)
	}
	sandboxtest.Await(t, c.Exited(), "the end, without the engine")
	if exit := c.Exit(); exit.Code != -1 {
		t.Errorf("it says %+v", exit)
	}
	g.open()
	if n, err := s.Sweep(t.Context()); err != nil || n != 1 {
		t.Errorf("Sweep removed %d; %v", n, err)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestForgottenIsKilled: what an engine knows nothing of any more ends when its container
// would be removed.
func TestForgottenIsKilled(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(ctx context.Context, s *Sandbox, id string) error{
		"by a sweep": func(ctx context.Context, s *Sandbox, _ string) error {
			n, err := s.Sweep(ctx)
			if n != 1 {
				err = errors.Join(err, errors.New("not one container was removed"))
			}
			return err
		},
		"as one that was lost": func(ctx context.Context, s *Sandbox, id string) error { return s.removeOurs(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, g := behind(t)
			c, err := s.Start(t.Context(), sandboxtest.Spec(t, true, sandboxtest.Wait()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				g.forget("")
				if err := c.Remove(context.Background()); err != nil {
					t.Error(err)
				}
			})
			id := c.(*instance).id
			g.forget(id)
			if err := remove(t.Context(), s, id); err != nil {
				t.Error(err)
			}
			sandboxtest.Await(t, c.Exited(), "the end of a forgotten process")
		})
	}
}

// TestRemoveLeavesNothing looks for what a container has on the host.
func TestRemoveLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _ := behind(t)
	c, err := s.Start(t.Context(), sandboxtest.Spec(t, true, sandboxtest.Wait()))
	if err != nil {
		t.Fatal(err)
	}
	id := c.(*instance).id
	if len(traces(t, id)) == 0 {
		t.Error("a container that runs leaves no trace; this test looks at the wrong places")
	}
	// Somebody else removes it at the same time.
	other := make(chan error, 1)
	go func() { other <- s.remove(t.Context(), id) }()
	if err := errors.Join(c.Remove(t.Context()), <-other); err != nil {
		t.Error(err)
	}
	if left := traces(t, id); len(left) != 0 {
		t.Errorf("it left %q", left)
	}
}

// traces lists mounts, control groups and running processes with the
// container's ID.
func traces(t *testing.T, id string) (found []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, id) {
			found = append(found, line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/docker/", "/sys/fs/cgroup/docker/", "/sys/fs/cgroup/system.slice/docker-", "/var/lib/docker/containers/"} {
		paths, err := filepath.Glob(pattern + id + "*")
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}

// TestReleaseRace uses a container from all sides while it is removed.
func TestReleaseRace(t *testing.T) {
	t.Parallel()
	s, _ := behind(t)
	c, err := s.Start(t.Context(), sandboxtest.Spec(t, true, sandboxtest.Wait()))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	stop := make(chan struct{})
	for _, use := range []func(){
		func() { _ = c.Exit() },
		func() {
			if l, err := c.Listen(9001); err == nil {
				_ = l.Close()
			}
		},
		func() {
			if dir, err := c.OpenDir("/tmp"); err == nil {
				_ = dir.Close()
			}
		},
	} {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					use()
				}
			}
		})
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	c.Kill()
	close(stop)
	group.Wait()
}
