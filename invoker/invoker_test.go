package invoker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

func TestColdThenWarm(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	n.wantError(n.warm(v, `1`), wire.CodeNoInstance, true, "no free instance")
	first := n.cold(v, `{"a":1}`)
	n.wantBody(first, `{"a":1}`)
	if !first.Cold || first.InitMicros <= 0 || first.Node != n.id || first.Instance == "" {
		t.Errorf("cold answer %+v", first.InvokeReply)
	}
	for range 20 {
		second := n.warm(v, `2`)
		n.wantBody(second, `2`)
		if second.Cold || second.InitMicros != 0 || second.Instance != first.Instance {
			t.Fatalf("warm answer %+v", second.InvokeReply)
		}
	}
	// A lease is no reason to start one when a warm one is free.
	n.wantBody(n.cold(v, `3`), `3`)
	if got := n.sandbox.Started(); got != 1 {
		t.Errorf("%d containers were started", got)
	}
}

func TestLeasesAndEpochs(t *testing.T) {
	n := startNode(t, each(echo))
	v, w := n.deploy(), n.deploy()
	lease := newLease()
	a, err := n.send(wire.InvokeRequest{Version: v, Lease: lease, Epoch: 5}, []byte(`1`))
	must(t, err)
	n.wantBody(a, `1`)
	stale := newLease()
	a, err = n.send(wire.InvokeRequest{Version: w, Lease: stale, Epoch: 4}, []byte(`1`))
	must(t, err)
	n.wantError(a, wire.CodeUnavailable, true, "no longer leads")
	unknown := newLease()
	a, err = n.send(wire.InvokeRequest{Version: wire.VersionID{FunctionID: v.FunctionID, Number: 99}, Lease: unknown, Epoch: 6}, nil)
	must(t, err)
	n.wantError(a, wire.CodeNotFound, false, "99")
	s := n.await("rid of its leases", func(s wire.NodeState) bool {
		return slices.Contains(s.Settled, lease) && slices.Contains(s.Settled, stale) && slices.Contains(s.Settled, unknown)
	})
	if want := (wire.Resources{MemoryBytes: 128 * mib, CPUMillis: 100, Instances: 1}); s.Reserved != want {
		t.Errorf("reserved %+v", s.Reserved)
	}
}

func TestMalformedRequest(t *testing.T) {
	n := startNode(t, each(echo))
	data, err := shared.conn.Request(t.Context(), wire.NodeInvokeSubject(n.id), []byte("nonsense"))
	must(t, err)
	var a answer
	a.body, err = wire.ParseFrame(data, &a.InvokeReply)
	must(t, err)
	n.wantError(a, wire.CodeInternal, false, "malformed frame")
}

func TestEviction(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	n := startNode(t, each(func(p *process, id string, event []byte) ([]byte, error) {
		if string(event) == `"wait"` {
			p.print("busy\n")
			select {
			case <-hold:
			case <-p.ctx.Done():
			}
		}
		return event, nil
	}), instances(2))
	old, young, other := n.deploy(), n.deploy(), n.deploy()
	n.wantBody(n.cold(old, `1`), `1`)
	n.sandbox.Set(func(k *fake.Knobs) { k.StartDelay = 2 * time.Second }) // more than the first one took, on any machine
	n.wantBody(n.cold(young, `1`), `1`)
	n.sandbox.Set(func(k *fake.Knobs) { k.StartDelay = 0 })
	n.wantBody(n.cold(other, `1`), `1`)
	n.wantError(n.warm(old, `2`), wire.CodeNoInstance, true, "no free instance") // the one that starts fastest went
	busy := []<-chan answer{n.background(young, `"wait"`), n.background(other, `"wait"`)}
	n.awaitCount(young, wire.VersionOnNode{Busy: 1, Slots: 1})
	n.awaitCount(other, wire.VersionOnNode{Busy: 1, Slots: 1})
	n.wantError(n.cold(old, `3`), wire.CodeNoCapacity, true, "no room for 128 MiB and 0.100 cores")
	close(hold)
	for _, b := range busy {
		n.wantBody(<-b, `"wait"`)
	}
	n.wantBody(n.cold(old, `4`), `4`)
}

// More functions than room, called at once: whoever gets an instance keeps it until
// it has answered.
func TestEvictionNeverHitsABusyInstance(t *testing.T) {
	n := startNode(t, each(echo), instances(3), idleLimit(2*time.Millisecond))
	versions := make([]wire.VersionID, 6)
	for i := range versions {
		versions[i] = n.deploy()
	}
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for k := range 40 {
				event := fmt.Sprintf(`"%d-%d"`, i, k)
				a, err := n.send(wire.InvokeRequest{Version: versions[(i+k)%len(versions)], Lease: newLease()}, []byte(event))
				switch {
				case err != nil:
					t.Error(err)
				case a.Error != nil && a.Error.Code == wire.CodeNoCapacity:
				case a.Error != nil || string(a.body) != event:
					t.Errorf("%s: %q, %v", event, a.body, a.Error)
				}
			}
		})
	}
	callers.Wait()
}

func TestFunctionDoesNotStart(t *testing.T) {
	for name, test := range map[string]struct {
		play  func(*process) int
		code  wire.Code
		words string
	}{
		"it says why and ends": {func(p *process) int {
			p.print("traceback\n")
			p.fail("init/error", "no module named x")
			return 1
		}, wire.CodeFunctionError, "the function did not start: no module named x"},
		"it says why and lingers": {func(p *process) int {
			p.print("traceback\n")
			p.fail("init/error", "no module named x")
			<-p.ctx.Done()
			return 1
		}, wire.CodeFunctionError, "no module named x"},
		"it ends": {func(p *process) int {
			p.print("traceback\n")
			return 7
		}, wire.CodeFunctionExited, "ended with status 7"},
		"a signal ends it": {func(p *process) int {
			p.print("traceback\n")
			return 128 + 11
		}, wire.CodeFunctionExited, "signal 11"},
		"it asks and ends": {func(p *process) int {
			p.print("traceback\n")
			conn, err := p.Dial(p.ctx, "unix", p.Env("DAYFLY_RUNTIME_SOCKET"))
			if err != nil {
				return 92
			}
			_, _ = conn.Write([]byte("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"))
			_ = conn.Close()
			return 7
		}, wire.CodeFunctionExited, "ended with status 7"},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, test.play)
			v := n.deploy()
			for range 5 {
				a := n.cold(v, `1`)
				n.wantError(a, test.code, false, test.words)
				if a.Error.Logs != "traceback\n" {
					t.Fatalf("logs %q", a.Error.Logs)
				}
			}
			n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
		})
	}
}

func TestFunctionFails(t *testing.T) {
	n := startNode(t, each(func(p *process, _ string, event []byte) ([]byte, error) {
		p.print("trying\n")
		switch string(event) {
		case `"error"`:
			return nil, errors.New("no good")
		case `"text"`:
			return []byte("plain text"), nil
		case `"nothing"`:
			return nil, nil
		case `"exit"`:
			return nil, errExit(3)
		case `"large"`:
			return make([]byte, wire.MaxEvent+1), nil
		}
		return event, nil
	}))
	v := n.deploy()
	first := n.cold(v, `1`)
	n.wantBody(first, `1`)
	for event, words := range map[string]string{
		`"error"`:   "no good",
		`"text"`:    "is no JSON",
		`"nothing"`: "is no JSON",
		`"large"`:   "10485760 bytes",
	} {
		a := n.warm(v, event)
		n.wantError(a, wire.CodeFunctionError, false, words)
		if a.Error.Logs != "trying\n" || a.Instance != first.Instance {
			t.Errorf("%s: %+v, logs %q", event, a.InvokeReply, a.Error.Logs)
		}
	}
	n.wantBody(n.warm(v, `2`), `2`) // the same instance goes on
	a := n.warm(v, `"exit"`)
	n.wantError(a, wire.CodeFunctionExited, false, "status 3")
	if a.Error.Logs != "trying\n" {
		t.Errorf("logs %q", a.Error.Logs)
	}
	n.wantError(n.warm(v, `3`), wire.CodeNoInstance, true, "")
	n.wantBody(n.cold(v, `4`), `4`)
}

func TestOutOfMemory(t *testing.T) {
	n := startNode(t, each(func(*process, string, []byte) ([]byte, error) { return nil, errExit(137) }))
	n.sandbox.Set(func(k *fake.Knobs) { k.OutOfMemory = true })
	n.wantError(n.cold(n.deploy(), `1`), wire.CodeFunctionOutOfMemory, false, "128 MiB")
}

func TestTimeout(t *testing.T) {
	const limit = 3 * time.Second // what is not to time out takes no time
	release := make(chan struct{})
	for name, play := range map[string]func(*process, string, []byte) ([]byte, error){
		"obedient": func(p *process, _ string, event []byte) ([]byte, error) {
			if string(event) == `"hang"` {
				p.print("working\n")
				<-p.ctx.Done()
			}
			return event, nil
		},
		// What takes long to remove must not hold the answer up.
		"slow to die": func(p *process, _ string, event []byte) ([]byte, error) {
			if string(event) == `"hang"` {
				p.print("working\n")
				<-release
			}
			return event, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, each(play))
			v := n.deploy(timeout(limit))
			n.wantBody(n.cold(v, `1`), `1`)
			begun := time.Now()
			a := n.warm(v, `"hang"`)
			late := time.Since(begun) - limit
			n.wantError(a, wire.CodeFunctionTimeout, false, "timeout of 3s")
			t.Logf("answered %s after the deadline", late)
			if late < 0 {
				t.Errorf("answered %s before the deadline", -late)
			}
			if a.Error.Logs != "working\n" {
				t.Errorf("logs %q", a.Error.Logs)
			}
			n.wantError(n.warm(v, `2`), wire.CodeNoInstance, true, "")
			if name == "slow to die" {
				close(release)
			}
			n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
		})
	}
}

func TestExitWhileIdle(t *testing.T) {
	leave := make(chan struct{})
	n := startNode(t, func(p *process) int {
		for {
			answered := make(chan bool, 1)
			go func() {
				id, event, err := p.next()
				if err == nil {
					p.respond(id, event)
				}
				answered <- err == nil
			}()
			select {
			case ok := <-answered:
				if !ok {
					return 1
				}
			case <-leave:
				return 0
			}
		}
	})
	v := n.deploy()
	n.wantBody(n.cold(v, `1`), `1`)
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: 1})
	leave <- struct{}{}
	n.awaitCount(v, wire.VersionOnNode{})
	n.wantError(n.warm(v, `2`), wire.CodeNoInstance, true, "")
	n.wantBody(n.cold(v, `3`), `3`)
	// The call may also be quicker than the node's own look. When the event was on its
	// way into the process already, it may even be answered, or nobody can know whether
	// it was seen.
	for range 20 {
		leave <- struct{}{}
		switch a := n.warm(v, `4`); {
		case a.Error == nil:
			n.wantBody(a, `4`)
		case a.Error.Code == wire.CodeFunctionExited:
			n.wantError(a, wire.CodeFunctionExited, false, "status 0")
		default:
			n.wantError(a, wire.CodeNoInstance, true, "")
		}
		// The next one is not to find it still there.
		embedtest.Eventually(t, "the instance is gone", func() bool { return n.sandbox.Live() == 0 })
		n.wantBody(n.cold(v, `5`), `5`)
	}
}

func TestIdleInstancesExpire(t *testing.T) {
	n := startNode(t, each(echo), idleLimit(20*time.Millisecond))
	v := n.deploy()
	a := n.cold(v, `1`)
	n.wantBody(a, `1`)
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} && s.Seq > a.StateSeq })
	if live := n.sandbox.Live(); live != 0 {
		t.Errorf("%d containers live", live)
	}
}

func TestSandboxFails(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	n.sandbox.Set(func(k *fake.Knobs) { k.StartError = fmt.Errorf("start: %w", sandbox.ErrUnavailable) })
	n.wantError(n.cold(v, `1`), wire.CodeUnavailable, true, "cannot start containers")
	n.sandbox.Set(func(k *fake.Knobs) { k.StartError = errors.New("no such image") })
	n.wantError(n.cold(v, `1`), wire.CodeInternal, false, "no such image")
	n.sandbox.Set(func(k *fake.Knobs) { k.StartError = nil })
	n.wantBody(n.cold(v, `1`), `1`)
}

func TestStartFails(t *testing.T) {
	n := startNode(t, each(echo))
	n.stop(patience)
	n.sandbox.Set(func(k *fake.Knobs) { k.CheckError = errors.New("no engine") })
	if err := n.inv.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "no engine") {
		t.Errorf("start: %v", err)
	}
	must(t, n.inv.Stop(t.Context()))
}

func TestStopDrains(t *testing.T) {
	let := make(chan struct{})
	n := startNode(t, each(func(p *process, _ string, event []byte) ([]byte, error) {
		<-let
		return event, nil
	}))
	v, idle := n.deploy(), n.deploy()
	call := n.background(v, `1`)
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 1})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.stop(patience)
	}()
	n.await("draining", func(s wire.NodeState) bool { return s.Draining })
	// The last word of a node that drains is a refusal, or nobody is there to ask.
	a, err := n.send(wire.InvokeRequest{Version: idle, Lease: newLease()}, nil)
	switch {
	case errors.Is(err, bus.ErrNoResponders):
	case err != nil:
		t.Error(err)
	default:
		n.wantError(a, wire.CodeNoCapacity, true, "draining")
	}
	close(let)
	n.wantBody(<-call, `1`)
	<-stopped
	n.await("gone", func(s wire.NodeState) bool { return s.Stopping })
}

// stopping begins to stop the node, and returns when it takes no call any more.
func (n *node) stopping() (stopped <-chan struct{}) {
	n.tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.stop(patience)
	}()
	embedtest.Eventually(n.tb, "the node takes no call", func() bool {
		_, err := shared.conn.Request(n.tb.Context(), wire.NodeInvokeSubject(n.id), nil)
		return errors.Is(err, bus.ErrNoResponders)
	})
	return done
}

// TestStreamGoesOnWhileStopping: what is taken of an answer reaches a node that stops.
func TestStreamGoesOnWhileStopping(t *testing.T) {
	t.Parallel()
	const chunks = 3 * wire.StreamWindow / maxPiece
	let := make(chan struct{})
	n := startNode(t, streams("text/plain", nil, func(_ *process, w io.Writer) error {
		<-let
		chunk := make([]byte, maxPiece)
		for range chunks {
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
		return nil
	}))
	s := n.stream(n.deploy())
	receive(t, s.pieces) // the head
	stopped := n.stopping()
	close(let)
	for total := 0; total < chunks*maxPiece; {
		p := receive(t, s.pieces)
		total += len(p.body)
		s.taken += wire.StreamCost(len(p.body))
		s.ack(false)
	}
	if a := receive(t, s.done); a.Error != nil || !a.Streamed {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	receive(t, stopped)
}

// TestCancelWhileStopping: a node that stops waits for no call that somebody cancels.
func TestCancelWhileStopping(t *testing.T) {
	t.Parallel()
	has := make(chan struct{}, 1)
	n := startNode(t, waiting(has))
	v, id := n.deploy(), newInvocation()
	done := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease()}, []byte(`"wait"`))
		if err != nil {
			a.Error = wire.AsError(err)
		}
		done <- a
	}()
	receive(t, has)
	stopped := n.stopping()
	n.cancel(id)
	n.wantError(receive(t, done), wire.CodeCancelled, false, "cancelled")
	receive(t, stopped)
}

func TestStopLosesPatience(t *testing.T) {
	n := startNode(t, each(func(p *process, _ string, event []byte) ([]byte, error) {
		<-p.ctx.Done()
		return event, nil
	}))
	v := n.deploy()
	call := n.background(v, `1`)
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 1})
	begun := make(chan struct{})
	n.sandbox.Set(func(k *fake.Knobs) {
		k.Run = func(ctx context.Context, _ fake.Process) int {
			close(begun)
			<-ctx.Done() // it never asks what it is to run
			return 1
		}
	})
	starting := n.background(n.deploy(), `1`)
	<-begun
	n.stop(time.Millisecond)
	n.wantError(<-call, wire.CodeUnavailable, false, "stopped while the function ran")
	n.wantError(<-starting, wire.CodeUnavailable, true, "being stopped")
}

func TestRestartSweeps(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	n.wantBody(n.cold(v, `1`), `1`)
	if live := n.sandbox.Live(); live != 1 {
		t.Fatalf("%d containers live", live)
	}
	// Another run with the same sandbox, as after kill -9.
	if left, err := n.sandbox.Sweep(t.Context()); left != 1 || err != nil {
		t.Fatalf("swept %d, %v", left, err)
	}
	n.awaitCount(v, wire.VersionOnNode{})
}

func memory(bytes int64) func(*functions.Spec) {
	return func(s *functions.Spec) { s.MemoryBytes = bytes }
}

// A large idle instance makes room for two small ones at once: neither call is
// refused while the room is on its way.
func TestRoomOnItsWay(t *testing.T) {
	n := startNode(t, each(echo), func(c *Config, _ *Deps) {
		c.Capacity = wire.Resources{MemoryBytes: 256 * mib, CPUMillis: 1000, Instances: 10}
	})
	large, a, b := n.deploy(memory(256*mib)), n.deploy(), n.deploy()
	for range 10 {
		n.wantBody(n.cold(large, `0`), `0`)
		first, second := n.background(a, `1`), n.background(b, `2`)
		n.wantBody(<-first, `1`)
		n.wantBody(<-second, `2`)
	}
}
