package e2e_test

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// burst makes calls at once and returns their answers.
func (p *platform) burst(t *testing.T, name string, calls int, event map[string]any) []answer {
	t.Helper()
	answers := make([]answer, calls)
	var wait sync.WaitGroup
	for i := range calls {
		wait.Go(func() {
			a, err := p.call(name, event)
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
			answers[i] = a
		})
	}
	wait.Wait()
	return answers
}

// TestBurst: calls that find no instance wait for one, and no more instances are
// started than there may be.
func TestBurst(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: burst\nruntime: python\nhandler: app.handler\nmemory: 64Mi\nmaxInstances: 3\n", "probe/app.py")
		instances := map[string]int{}
		for i, a := range p.burst(t, name, 200, map[string]any{"do": "sleep", "seconds": 0.01}) {
			if a.status != http.StatusOK {
				t.Errorf("call %d: %d %s", i, a.status, a.body)
			}
			instances[string(a.body)]++
		}
		if len(instances) > 3 {
			t.Errorf("instances %v", instances)
		}
	})
}

// TestBurstOfIsolatedCalls: every call has an instance of its own, and still no more
// run at once than may.
func TestBurstOfIsolatedCalls(t *testing.T) {
	t.Parallel()
	on(t, []sharedSetup{{"oci", world.oci}}, func(t *testing.T, p *platform) {
		t.Parallel()
		const calls = 20
		name := p.shared(t, "name: alone\nruntime: python\nhandler: app.handler\nmemory: 64Mi\nmaxInstances: 3\nisolation: invocation\n", "probe/app.py")
		instances := map[string]bool{}
		for i, a := range p.burst(t, name, calls, map[string]any{"do": "instance"}) {
			if a.status != http.StatusOK {
				t.Errorf("call %d: %d %s", i, a.status, a.body)
			}
			instances[string(a.body)] = true
		}
		if len(instances) != calls {
			t.Errorf("%d calls ran in %d instances", calls, len(instances))
		}
	})
}

// TestPatience: a call waits as long as its function may run, and is then told when to
// come back.
func TestPatience(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: patient\nruntime: python\nhandler: app.handler\nmemory: 64Mi\nmaxInstances: 2\ntimeout: 5s\n", "probe/app.py")
		p.invoke(t, name, map[string]any{"do": "echo"}).want(t, http.StatusOK)
		counts := map[int]int{}
		for _, a := range p.burst(t, name, 12, map[string]any{"do": "sleep", "seconds": 3.5}) {
			counts[a.status]++
			if a.status == http.StatusOK {
				continue
			}
			a.wantProblem(t, http.StatusTooManyRequests, wire.CodeThrottled, "of waiting", "maxInstances")
			if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
				t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
			}
			if a.took < 4500*time.Millisecond {
				t.Errorf("it was refused after %s", a.took)
			}
		}
		// One instance is there, and has a turn for one that waits.
		if counts[http.StatusOK] < 2 || counts[http.StatusTooManyRequests] < 1 {
			t.Errorf("answers by status: %v", counts)
		}
	})
}
