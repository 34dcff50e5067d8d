package invoker

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

func stemming(floor, ceiling int, budget int64) option {
	return func(c *Config, _ *Deps) {
		c.Stems = StemConfig{Floor: floor, Ceiling: ceiling, BudgetBytes: budget, Starts: 4, Network: functions.NetworkNone}
	}
}

func holds(want map[string]int) func(wire.NodeState) bool {
	return func(s wire.NodeState) bool {
		for kind, n := range want {
			if s.Stems[kind] != n {
				return false
			}
		}
		return len(s.Stems) == len(want)
	}
}

// TestStemsAreHeldReady: a cold call takes a stem that is there, and another takes
// its place.
func TestStemsAreHeldReady(t *testing.T) {
	n := startNode(t, each(echo), stemming(1, 4, 1<<30))
	one := map[string]int{"base/none": 1, "node/none": 1, "python/none": 1}
	n.await("holding stems", holds(one))
	before := n.sandbox.Started()
	n.wantBody(n.cold(n.deploy(), `1`), `1`)
	embedtest.Eventually(t, "another stem", func() bool { return n.sandbox.Started() > before })
	n.await("holding stems again", holds(one))
	if got := n.sandbox.Started(); got != before+1 {
		t.Errorf("%d containers were started for one call, want 1 to replace the stem", got-before)
	}
}

// TestStemsFollowDemand: a burst leaves as many stems as it needed, within bounds.
func TestStemsFollowDemand(t *testing.T) {
	n := startNode(t, each(echo), stemming(0, 3, 1<<30))
	var calls []<-chan answer
	for range 5 {
		calls = append(calls, n.background(n.deploy(), `1`))
	}
	for _, call := range calls {
		n.wantBody(<-call, `1`)
	}
	n.await("holding as many as it may", holds(map[string]int{"python/none": 3}))
}

// TestDeadStem: a stem that died is not given to a call.
func TestDeadStem(t *testing.T) {
	n := startNode(t, each(echo), stemming(1, 1, 1<<30))
	n.await("holding stems", func(s wire.NodeState) bool { return s.Stems["python/none"] == 1 })
	n.inv.stems.mu.Lock()
	ready := n.inv.stems.pools[stemKind{"python", functions.NetworkNone}].ready
	n.inv.stems.mu.Unlock()
	dead := <-ready
	dead.container.Kill()
	<-dead.container.Exited()
	ready <- dead
	n.wantBody(n.cold(n.deploy(), `1`), `1`)
}

// TestStemDoesNotStart: a container that ends before it asks for a function is the
// platform's failure, and the next one does.
func TestStemDoesNotStart(t *testing.T) {
	n := startNode(t, each(echo), stemming(0, 0, 1<<30))
	died := make(chan struct{}, 1)
	good := run(each(echo))
	n.sandbox.Set(func(k *fake.Knobs) {
		k.Run = func(ctx context.Context, p fake.Process) int {
			select {
			case died <- struct{}{}:
				return 1 // before it asks for an assignment
			default:
				return good(ctx, p)
			}
		}
	})
	a := n.cold(n.deploy(), `1`)
	if a.Error == nil || a.Error.Code.OfFunction() {
		t.Errorf("the function is blamed, or nobody: %v", a.Error)
	}
	n.wantBody(n.cold(n.deploy(), `2`), `2`)
}

// TestStemsKeepTheirBudget: what does not fit is not started.
func TestStemsKeepTheirBudget(t *testing.T) {
	n := startNode(t, each(echo), stemming(2, 4, 6<<20))
	n.await("holding two small stems", holds(map[string]int{"base/none": 2}))
	n.inv.stems.mu.Lock()
	defer n.inv.stems.mu.Unlock()
	if held := n.inv.stems.held; held > 6<<20 {
		t.Errorf("%d bytes of stems in a budget of %d", held, 6<<20)
	}
}

// TestShellAssignment: a runtime without a shim is told by a script that a real
// shell understands, whatever stands in the environment.
func TestShellAssignment(t *testing.T) {
	text := "it's \"quoted\" $HOME `id` \\ \n second line"
	n := startNode(t, each(func(p *process, _ string, _ []byte) ([]byte, error) { return json.Marshal(p.script) }))
	v := n.deploy(func(s *functions.Spec) {
		s.Runtime, s.Handler, s.Env = functions.RuntimeProvided, "bootstrap", map[string]string{"TEXT": text}
	})
	a := n.cold(v, `1`)
	var script string
	if a.Error != nil || json.Unmarshal(a.body, &script) != nil {
		t.Fatalf("answer %s, %v", a.body, a.Error)
	}
	const end = "cd /var/task\nexec /var/task/bootstrap\n"
	settings, ok := strings.CutSuffix(script, end)
	if !ok {
		t.Fatalf("the script does not end with %q: %s", end, script)
	}
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", settings+`printf '%s|%s' "$TEXT" "$_HANDLER"`).Output()
	if want := text + "|bootstrap"; err != nil || string(out) != want {
		t.Errorf("the shell sees %q, %v; want %q", out, err, want)
	}
}
