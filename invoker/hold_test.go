package invoker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
	"github.com/dayfly-run/dayfly/wire"
)

// withProcess is a container that has a process to be held by.
type withProcess struct {
	sandbox.Container

	process *hostproc.Process
	mayGo   <-chan struct{} // it is not removed before this is closed
	held    chan<- *os.File
}

func (c *withProcess) Pidfd() (*os.File, error) {
	f, err := c.process.Pidfd()
	if err == nil {
		c.held <- f
	}
	return f, err
}

func (c *withProcess) Remove(ctx context.Context) error {
	<-c.mayGo
	return c.Container.Remove(ctx)
}

// processes is a sandbox of containers with a process, which is the same for all.
type processes struct {
	sandbox.Sandbox

	process *hostproc.Process
	mayGo   chan struct{}
	held    chan *os.File
}

func (s *processes) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error) {
	c, err := s.Sandbox.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &withProcess{Container: c, process: s.process, mayGo: s.mayGo, held: s.held}, nil
}

// sleeping starts a process that runs until the test ends.
func sleeping(t *testing.T) *hostproc.Process {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	p, err := hostproc.Open(cmd.Process.Pid, ":/")
	must(t, err)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		must(t, p.Close())
	})
	return p
}

var guardConfig = guard.Config{Args: []string{guard.Command, "error", "text"}}

// TestHoldOfWhatHasEnded: the guard lets go of what has ended, however long its removal
// takes.
func TestHoldOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	s := &processes{process: sleeping(t), mayGo: make(chan struct{}), held: make(chan *os.File, 10)}
	n := startNode(t, each(func(*process, string, []byte) ([]byte, error) { return nil, errExit(3) }),
		func(c *Config, d *Deps) {
			c.Guard = guardConfig
			s.Sandbox, d.Sandbox = d.Sandbox, s
		})
	defer close(s.mayGo)
	n.wantError(n.cold(n.deploy(), `1`), wire.CodeFunctionExited, false, "status 3")
	held := embedtest.Receive(t, s.held)
	embedtest.Eventually(t, "the guard has let go", func() bool {
		_, err := held.Stat()
		return errors.Is(err, fs.ErrClosed)
	})
}

// ended is a container that was killed.
type ended struct{ sandbox.Container }

func (ended) Exit() sandbox.Exit { return sandbox.Exit{Code: killedCode} }

// TestWhoWasKilledByTheGuard: where the guard was quicker than the node, a deadline is told
// as one, while the function starts, and to all that ran beside the event that ran into it.
func TestWhoWasKilledByTheGuard(t *testing.T) {
	g, err := guard.New(guardConfig, quiet())
	must(t, err)
	t.Cleanup(g.Close)
	hold, err := g.Watch(&withProcess{process: sleeping(t), held: make(chan *os.File, 1)})
	must(t, err)
	t.Cleanup(hold.Release)
	now := time.Now()
	past, future := now.Add(-time.Minute), now.Add(time.Hour)
	for name, test := range map[string]struct {
		armed    []time.Time
		deadline time.Time // of what is asked for
		why      error
		ended    wire.Code // of an event
		start    wire.Code
	}{
		"its own deadline":  {[]time.Time{past}, past, errDeadline, wire.CodeUnavailable, wire.CodeFunctionTimeout},
		"another's":         {[]time.Time{past, future}, future, runtimeapi.ErrEnded, wire.CodeFunctionExited, wire.CodeFunctionExited},
		"nobody's deadline": {[]time.Time{future}, future, runtimeapi.ErrEnded, wire.CodeUnavailable, wire.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			for _, at := range test.armed {
				hold.Arm(at)
				defer hold.Disarm(at)
			}
			logs, err := newLogPipe(filepath.Join(t.TempDir(), logName), func(wire.InvocationID, string, bool) {})
			must(t, err)
			in := &instance{
				container: ended{}, hold: hold, api: runtimeapi.New(), logs: logs,
				version: functions.Version{Spec: functions.Spec{MemoryBytes: mib}},
			}
			if err := in.whyEnded(t.Context(), test.deadline); !errors.Is(err, test.why) {
				t.Errorf("why: %v", err)
			}
			if e := in.exitError(""); e.Code != test.ended {
				t.Errorf("an event beside it: %v", e)
			}
			if err := in.whyNotReady(t.Context(), test.deadline, ""); !wire.HasCode(err, test.start) {
				t.Errorf("a start: %v", err)
			}
		})
	}
}
