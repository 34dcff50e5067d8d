package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Point 10: placing, and what goes on without a scheduler or S3.

// TestConcurrentCalls: calls at once run at once, and no two in one instance.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		const calls, seconds = 20, 3
		name := p.shared(t, "name: sleeper\nruntime: python\nhandler: app.handler\nmemory: 64Mi\n", "probe/app.py")
		ids := make([]string, calls)
		var wait sync.WaitGroup
		for i := range calls {
			wait.Go(func() {
				a, err := p.call(name, map[string]any{"do": "sleep", "seconds": seconds})
				if err != nil || a.status != http.StatusOK {
					t.Errorf("call %d: %v, %d %s", i, err, a.status, a.body)
					return
				}
				ids[i] = a.invocation()
			})
		}
		wait.Wait()
		if t.Failed() {
			return
		}
		var records []wire.Record
		for _, id := range ids {
			records = append(records, p.record(t, id))
		}
		most := 0
		for _, r := range records {
			beside := 0
			for _, other := range records {
				// Each takes so long; its record is closed a little after its end.
				if apart := r.StartedAt.Sub(other.StartedAt); apart < 0 || apart >= seconds*time.Second {
					continue
				}
				if beside++; other.Invocation != r.Invocation && other.Instance == r.Instance {
					t.Errorf("two ran at once in one instance: %+v, %+v", r, other)
				}
			}
			most = max(most, beside)
		}
		// How many depends on how long the machine takes to start them.
		if most < 2 {
			t.Error("they ran one after the other")
		}
	})
}

// TestNoCapacity: what never fits is refused at once, what does not fit now after a
// wait, with a time to come back; it runs once there is room. Idle instances of others
// make room.
func TestNoCapacity(t *testing.T) {
	t.Parallel()
	for _, setup := range []string{"up", "roles"} {
		t.Run(setup, func(t *testing.T) {
			t.Parallel()
			p := private(t, setup, options{flags: []string{"--memory", "300"}})
			app := testdata(t, "probe/app.py")
			_, err := p.deployFiles(files{"dayfly.yaml": "name: huge\nruntime: python\nhandler: app.handler\nmemory: 301Mi\n", "app.py": app})
			if err == nil || !strings.Contains(err.Error(), "no connected node is large enough for huge:1") {
				t.Errorf("the deploy of what never fits: %v", err)
			}
			p.deploy(t, files{"dayfly.yaml": "name: half\nruntime: python\nhandler: app.handler\nmemory: 200Mi\ntimeout: 5m\n", "app.py": app})
			p.deploy(t, files{"dayfly.yaml": "name: other\nruntime: python\nhandler: app.handler\nmemory: 200Mi\ntimeout: 1s\n", "app.py": app})

			p.wantNoCapacity(t, "huge:1")
			instance := decode[string](t, p.invoke(t, "half", map[string]string{"do": "instance"}))
			result := p.inFlight(t, "half", map[string]any{"do": "print", "lines": []string{"in flight"}, "until": "/tmp/go"}, "in flight")
			waits := make(chan answer, 1)
			go func() { waits <- p.answered("half", map[string]any{"do": "echo", "value": 1}) }()
			p.wantNoCapacity(t, "other")
			p.cli(t, "invoke", "other", "--data", `{"do":"echo"}`).wantExit(t, 5, "no node can take other:1", "dayfly nodes", "try again")
			select {
			case a := <-waits:
				t.Fatalf("a call that did not fit was not to wait for room: %d %s", a.status, a.body)
			default:
			}
			leaveFile(t, instance, "/tmp/go")
			if a := <-result; a.status != http.StatusOK {
				t.Errorf("the call that was placed: %d %s", a.status, a.body)
			}
			(<-waits).wantJSON(t, "1")
			p.invoke(t, "other", map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
		})
	}
}

func (p *platform) wantNoCapacity(t *testing.T, name string) answer {
	t.Helper()
	a := p.invoke(t, name, map[string]any{"do": "echo"})
	doc := a.wantProblem(t, http.StatusServiceUnavailable, wire.CodeNoCapacity)
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || after < 1 || doc.RetryAfterMillis < 1 {
		t.Errorf("Retry-After is %q, %+v", a.header.Get("Retry-After"), doc)
	}
	return a
}

// sleepFor is an event for testdata/probe: it prints "in flight", and then takes time.
func sleepFor(seconds int) map[string]any {
	return map[string]any{"do": "print", "lines": []string{"in flight"}, "then": seconds}
}

// answered makes a call; an error of it is the answer's body.
func (p *platform) answered(name string, event any) answer {
	a, err := p.call(name, event)
	if err != nil {
		a.body = []byte(err.Error())
	}
	return a
}

// inFlight starts a call and returns once its function has printed that line.
func (p *platform) inFlight(t *testing.T, name string, event map[string]any, line string) <-chan answer {
	t.Helper()
	result := make(chan answer, 1)
	go func() { result <- p.answered(name, event) }()
	eventually(t, patience, func() error {
		a, err := p.request(http.MethodGet, "/v1/functions/"+name+"/logs", nil)
		if err == nil && !strings.Contains(string(a.body), line) {
			err = fmt.Errorf("%s does not run yet: %s", name, a.body)
		}
		return err
	})
	return result
}

// TestMaxInstances: a call waits for the one instance that its function may have.
func TestMaxInstances(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: single\nruntime: python\nhandler: app.handler\nmaxInstances: 1\n", "probe/app.py")
		const seconds = 2
		result := p.inFlight(t, name, sleepFor(seconds), "in flight")
		second := p.invoke(t, name, map[string]any{"do": "echo", "value": 1})
		second.wantJSON(t, "1")
		first := <-result
		first.want(t, http.StatusOK)
		if a, b := p.record(t, first.invocation()), p.record(t, second.invocation()); b.StartedAt.Sub(a.StartedAt) < seconds*time.Second {
			t.Errorf("the second call ran beside the first: %+v, %+v", a, b)
		}
	})
}

// TestWithoutSchedulerAndS3: warm calls need neither; cold ones come back with a new
// scheduler.
func TestWithoutSchedulerAndS3(t *testing.T) {
	t.Parallel()
	p := private(t, "roles", options{})
	app := testdata(t, "probe/app.py")
	p.deploy(t, files{"dayfly.yaml": "name: warm\nruntime: python\nhandler: app.handler\n", "app.py": app})
	cold := p.aside(t, files{"dayfly.yaml": "name: cold\nruntime: python\nhandler: app.handler\n", "app.py": app})
	instance := decode[string](t, p.invoke(t, "warm", map[string]string{"do": "instance"}))
	stillWarm := func(without string) {
		t.Helper()
		for range 20 {
			a := p.invoke(t, "warm", map[string]string{"do": "instance"})
			if got := decode[string](t, a); got != instance || a.header.Get("Dayfly-Cold") != "false" {
				t.Fatalf("without %s: instance %s instead of %s, %v", without, got, instance, a.header)
			}
		}
	}
	if err := p.procs["scheduler"].kill(); err != nil {
		t.Fatal(err)
	}
	delete(p.procs, "scheduler")
	stillWarm("a scheduler")
	p.invoke(t, cold, map[string]any{"do": "echo"}).wantProblem(t, http.StatusServiceUnavailable, wire.CodeUnavailable, "scheduler")
	if err := readiness(p.url); err != nil { // a balancer would leave out a gateway that serves
		t.Errorf("without a scheduler: %v", err)
	}

	listen := p.s3.at.URL[len("http://"):]
	if err := p.s3.end(); err != nil {
		t.Fatal(err)
	}
	stillWarm("S3")
	_, err := p.deployFiles(files{"dayfly.yaml": "name: late\nruntime: python\nhandler: app.handler\n", "app.py": app})
	if err == nil || !strings.Contains(err.Error(), "S3") {
		t.Errorf("a deploy without S3: %v", err)
	}
	stillWarm("S3")

	if p.s3, err = world.startEngine("s3", p.dir, listen); err != nil {
		t.Fatal(err)
	}
	if err := p.startRole("scheduler", options{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() error { return readiness(p.urls["scheduler"]) })
	p.invoke(t, cold, map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
	stillWarm("anything missing")
}

// TestLostNode: a call in flight on a node that dies gets an answer at once, because its
// guard kills what the node ran and tells of it; the node's next start removes the rest. A
// function on a node that is stopped ends at its deadline all the same.
func TestLostNode(t *testing.T) {
	t.Parallel()
	for _, sandbox := range []string{onDocker, onOCI} {
		t.Run(sandbox, func(t *testing.T) {
			t.Parallel()
			testLostNode(t, sandbox)
		})
	}
}

func testLostNode(t *testing.T, sandbox string) {
	p := private(t, "roles", options{sandbox: sandbox, flags: []string{"--stems", "0"}})
	p.deploy(t, files{"dayfly.yaml": "name: doomed\nruntime: python\nhandler: app.handler\ntimeout: 15m\n", "app.py": testdata(t, "probe/app.py")})
	invoker := p.procs["invoker"]
	p.deploy(t, files{"dayfly.yaml": "name: short\nruntime: python\nhandler: app.handler\ntimeout: 3s\n", "app.py": testdata(t, "probe/app.py")})
	instance := "DAYFLY_INSTANCE=" + decode[string](t, p.invoke(t, "short", map[string]string{"do": "instance"}))
	spun := p.inFlight(t, "short", map[string]any{"do": "spin"}, "before the end")
	if err := invoker.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() error {
		if left := processesWith(instance); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
	if err := invoker.signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if a := <-spun; a.status != http.StatusServiceUnavailable && a.status != http.StatusGatewayTimeout {
		t.Errorf("on a node that was stopped: %d %s", a.status, a.body)
	}
	eventually(t, patience, func() error {
		if a, err := p.call("short", map[string]any{"do": "echo"}); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%d %s, %w", a.status, a.body, err)
		}
		return nil
	})

	result := p.inFlight(t, "doomed", sleepFor(800), "in flight")
	began := time.Now()
	if err := invoker.kill(); err != nil {
		t.Fatal(err)
	}
	delete(p.procs, "invoker")
	a := <-result
	t.Logf("answered %s after the invoker's end", time.Since(began))
	a.wantProblem(t, http.StatusServiceUnavailable, wire.CodeUnavailable, p.node, "may have run")
	if a.header.Get("Retry-After") == "" {
		t.Errorf("it does not say when to come back: %v", a.header)
	}
	if invoker.log.find("told the cluster") == nil {
		t.Error("the guard did not tell the cluster")
	}
	eventually(t, patience, func() error { // who kills them does not wait for their end
		if left := processesWith("DAYFLY_NODE=" + p.node); len(left) != 0 {
			return fmt.Errorf("of the node that died run: %s", left)
		}
		return nil
	})
	if left := p.instances(t); len(left) == 0 {
		t.Error("no container is left of the node that died: this test tests too little")
	}
	if err := p.startRole("invoker", options{flags: []string{"--stems", "0"}}); err != nil {
		t.Fatal(err)
	}
	if left := p.instances(t); len(left) != 0 {
		t.Errorf("%d containers are left after the node's next start", len(left))
	}
	if err := p.awaitReady(); err != nil {
		t.Fatal(err)
	}
	p.invoke(t, "doomed", map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
}
