package invoker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

func concurrent(n int) func(*functions.Spec) { return func(s *functions.Spec) { s.Concurrency = n } }

func isolated(s *functions.Spec) { s.Isolation = functions.IsolationInvocation }

// gate is a function that answers when it is let.
type gate struct {
	entered chan string
	leave   chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan string, 100), leave: make(chan struct{})} }

func (g *gate) handle(p *process, _ string, event []byte) ([]byte, error) {
	g.entered <- string(event)
	select {
	case <-g.leave:
		return event, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// inBackground calls a warm instance and gives the answer later.
func (n *node) inBackground(v wire.VersionID, event string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Version: v}, []byte(event))
		if err != nil {
			a.Error = wire.AsError(err)
		}
		done <- a
	}()
	return done
}

// fill runs so many events on one instance: the first call starts it.
func (n *node) fill(g *gate, v wire.VersionID, events int) (calls []<-chan answer) {
	n.tb.Helper()
	for i := range events {
		if i == 0 {
			calls = append(calls, n.background(v, "0"))
		} else {
			calls = append(calls, n.inBackground(v, strconv.Itoa(i)))
		}
		<-g.entered
	}
	return calls
}

func TestSeveralEventsOnOneInstance(t *testing.T) {
	const atOnce = 3
	g := newGate()
	told := make(chan []byte, 1)
	n := startNode(t, func(p *process) int {
		told <- p.told
		return several(atOnce, g.handle)(p)
	})
	v := n.deploy(concurrent(atOnce))
	calls := n.fill(g, v, atOnce)
	var a runtimeapi.Assignment
	must(t, json.Unmarshal(<-told, &a))
	if a.Concurrency != atOnce || a.Env["AWS_LAMBDA_MAX_CONCURRENCY"] != "3" {
		t.Errorf("assignment %+v", a)
	}
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: atOnce})
	n.wantError(n.warm(v, `9`), wire.CodeNoInstance, true, "no free instance")
	close(g.leave)
	var on []wire.InstanceID
	for i, call := range calls {
		a := <-call
		n.wantBody(a, strconv.Itoa(i))
		if a.Spent || a.Cold != (i == 0) {
			t.Errorf("answer %+v", a.InvokeReply)
		}
		on = append(on, a.Instance)
	}
	if len(slices.Compact(on)) != 1 {
		t.Errorf("they ran on %v", on)
	}
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: atOnce})
}

// TestOneExitFailsAll: a process that ends takes all that it runs with it, and the
// next call starts another.
func TestOneExitFailsAll(t *testing.T) {
	g := newGate()
	exit := make(chan struct{})
	n := startNode(t, several(3, func(p *process, id string, event []byte) ([]byte, error) {
		if string(event) == "2" {
			g.entered <- "2"
			<-exit
			return nil, errExit(7)
		}
		return g.handle(p, id, event)
	}))
	v := n.deploy(concurrent(3))
	calls := n.fill(g, v, 3)
	close(exit)
	for _, call := range calls {
		a := <-call
		n.wantError(a, wire.CodeFunctionExited, false, "status 7")
		if !a.Spent {
			t.Error("an instance that ended takes another event")
		}
	}
	close(g.leave)
	n.wantBody(n.cold(v, `5`), `5`)
}

// TestOneTimeoutEndsAll: the others on the instance learn why, and no event comes to
// it any more.
func TestOneTimeoutEndsAll(t *testing.T) {
	t.Parallel()
	g := newGate()
	n := startNode(t, several(3, g.handle))
	v := n.deploy(concurrent(3), timeout(5*time.Second))
	first := n.background(v, `0`)
	<-g.entered
	// The second begins so much later that its own deadline is not meant.
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 3})
	second := n.inBackground(v, `1`)
	<-g.entered
	a := <-first
	n.wantError(a, wire.CodeFunctionTimeout, false, "timeout of 5s")
	n.wantError(n.warm(v, `2`), wire.CodeNoInstance, true, "")
	b := <-second
	if b.Error == nil || b.Error.Code != wire.CodeFunctionTimeout { // both at once, on a machine that is busy
		n.wantError(b, wire.CodeFunctionExited, false, "another invocation on the same instance ran into its timeout")
	}
	if !a.Spent || !b.Spent {
		t.Error("an instance that was killed takes another event")
	}
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
}

// TestLogsOfSeveralAtOnce: marked lines are their invocations', others the instance's.
func TestLogsOfSeveralAtOnce(t *testing.T) {
	g := newGate()
	n := startNode(t, several(2, func(p *process, id string, event []byte) ([]byte, error) {
		p.print(fmt.Sprintf("\x1e%s\x1fbegin %s\n", id, event))
		if string(event) == "1" {
			p.print("of nobody\n")
		}
		result, err := g.handle(p, id, event)
		p.print(fmt.Sprintf("\x1e%s\x1fend %s\n", id, event))
		return result, err
	}))
	v := n.deploy(concurrent(2))
	logs := listen[wire.LogEntry](t, wire.FunctionLogs(v.FunctionID))
	calls := n.fill(g, v, 2)
	close(g.leave)
	for i, call := range calls {
		n.wantBody(<-call, strconv.Itoa(i))
	}
	text, last := map[wire.InvocationID]string{}, 0
	for len(text) < 3 || last < 2 {
		e := receive(t, logs)
		text[e.Invocation] += e.Text
		if e.Last {
			last++
		}
	}
	if text[""] != "of nobody\n" {
		t.Errorf("the instance's own: %q", text[""])
	}
	delete(text, "")
	for id, got := range text {
		if got != "begin 0\nend 0\n" && got != "begin 1\nend 1\n" {
			t.Errorf("%s: %q", id, got)
		}
	}
}

func TestIsolation(t *testing.T) {
	n := startNode(t, each(echo), stemming(1, 4, 1<<30))
	v := n.deploy(isolated)
	seen := map[wire.InstanceID]bool{}
	for i := range 20 {
		a := n.cold(v, strconv.Itoa(i))
		n.wantBody(a, strconv.Itoa(i))
		if !a.Cold || !a.Spent || seen[a.Instance] {
			t.Fatalf("answer %+v", a.InvokeReply)
		}
		seen[a.Instance] = true
		n.wantError(n.warm(v, `1`), wire.CodeNoInstance, true, "no free instance")
	}
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
}

// TestIsolationDoesNotWaitForRemoval: what takes long to remove holds no answer up.
func TestIsolationDoesNotWaitForRemoval(t *testing.T) {
	let := make(chan struct{})
	n := startNode(t, func(p *process) int {
		each(echo)(p)
		<-let
		return 0
	})
	v := n.deploy(isolated)
	for range 3 {
		n.wantBody(n.cold(v, `1`), `1`)
	}
	if live := n.sandbox.Live(); live != 3 {
		t.Errorf("%d containers live, want all 3 that are slow to go", live)
	}
	close(let)
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
}

// TestWarmBeforeStem: a call that waits for a container takes an instance that
// becomes free before.
func TestWarmBeforeStem(t *testing.T) {
	g := newGate()
	n := startNode(t, each(g.handle))
	v := n.deploy()
	first := n.background(v, `1`)
	<-g.entered
	n.sandbox.Set(func(k *fake.Knobs) { k.Hang = true })
	lease := newLease()
	second := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Version: v, Lease: lease}, []byte(`2`))
		if err != nil {
			a.Error = wire.AsError(err)
		}
		second <- a
	}()
	n.awaitWaiting(v, 1)
	g.leave <- struct{}{}
	n.wantBody(<-first, `1`)
	<-g.entered
	close(g.leave)
	a := <-second
	n.wantBody(a, `2`)
	if a.Cold || a.Instance == "" {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	n.await("rid of the lease", func(s wire.NodeState) bool { return slices.Contains(s.Settled, lease) })
}

// awaitWaiting waits until so many calls of a version wait for a container.
func (n *node) awaitWaiting(v wire.VersionID, calls int) {
	n.tb.Helper()
	n.await("waiting", func(wire.NodeState) bool {
		n.inv.mu.Lock()
		defer n.inv.mu.Unlock()
		wait := n.inv.waits[v]
		return wait != nil && wait.calls == calls
	})
}

// TestBurstSharesInstances: calls that came at once fill the instances that are there
// rather than wait for one each.
func TestBurstSharesInstances(t *testing.T) {
	const calls = 12
	n := startNode(t, several(calls, echo))
	v := n.deploy(concurrent(calls))
	var all sync.WaitGroup
	var mu sync.Mutex
	on := map[wire.InstanceID]int{}
	for i := range calls {
		all.Go(func() {
			a, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease()}, fmt.Append(nil, i))
			if err != nil || a.Error != nil || string(a.body) != strconv.Itoa(i) {
				t.Errorf("call %d: %q, %v, %v", i, a.body, a.Error, err)
			}
			mu.Lock()
			defer mu.Unlock()
			on[a.Instance]++
		})
	}
	all.Wait()
	t.Logf("they ran on %d instances", len(on))
	s := n.await("idle", func(s wire.NodeState) bool { return len(s.Versions) == 1 && s.Versions[0].Busy == 0 })
	if got := s.Versions[0]; got.Slots != got.Idle*calls {
		t.Errorf("counts %+v", got)
	}
}

// TestConnectionsAreBounded: a function gets no more than it may have, and goes on.
func TestConnectionsAreBounded(t *testing.T) {
	n := startNode(t, each(func(p *process, _ string, _ []byte) ([]byte, error) {
		open, refused := 0, 0
		for range 2 * maxConns {
			conn, err := p.Dial(p.ctx, "unix", p.Env("DAYFLY_RUNTIME_SOCKET"))
			if err != nil {
				return nil, err
			}
			defer conn.Close()
			_, _ = conn.Write([]byte("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"))
			if k, _ := conn.Read(make([]byte, 1)); k == 1 {
				open++
			} else {
				refused++
			}
		}
		return fmt.Appendf(nil, `"%d open"`, open), nil
	}))
	a := n.cold(n.deploy(), `1`)
	if a.Error != nil || !strings.Contains(string(a.body), fmt.Sprint(maxConns-1, " open")) { // its own is one
		t.Errorf("answer %s, %v", a.body, a.Error)
	}
}
