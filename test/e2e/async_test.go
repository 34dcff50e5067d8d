package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// accept gives a function an event that runs later.
func (p *platform) accept(t testing.TB, name string, event any, headers ...string) wire.InvocationID {
	t.Helper()
	data, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	headers = append([]string{"Prefer: respond-async", "Content-Type: application/json"}, headers...)
	a := p.do(t, http.MethodPost, "/v1/functions/"+name+"/invocations", data, headers...).want(t, http.StatusAccepted)
	id := decode[struct {
		Invocation wire.InvocationID `json:"invocation"`
	}](t, a).Invocation
	if want := "/v1/invocations/" + string(id); a.header.Get("Location") != want {
		t.Errorf("Location is %q, want %q", a.header.Get("Location"), want)
	}
	return id
}

// ended waits for the end of an invocation.
func (p *platform) ended(t testing.TB, id wire.InvocationID, want wire.State) wire.Record {
	t.Helper()
	r := decode[wire.Record](t, p.do(t, http.MethodGet, "/v1/invocations/"+string(id)+"?wait=1m", nil).want(t, http.StatusOK))
	if r.State != want {
		t.Fatalf("invocation is %s instead of %s: %+v", r.State, want, r)
	}
	return r
}

// TestAsync: an event runs later, once for a key, and its result is kept.
func TestAsync(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		id := strings.TrimSpace(p.cli(t, "invoke", name, "--async", "--data", `{"do": "echo", "value": "later"}`).wantExit(t, 0).stdout)
		if out := p.cli(t, "result", id).wantExit(t, 0); out.stdout != `"later"` {
			t.Errorf("dayfly result prints %q", out.stdout)
		}
		r := p.ended(t, wire.InvocationID(id), wire.StateSucceeded)
		if r.Source != wire.SourceHTTP || len(r.Attempts) != 1 || r.Output == nil || r.Node == "" || r.AcceptedAt.After(r.StartedAt) {
			t.Errorf("record %+v", r)
		}
		p.cli(t, "invocations", name, "--limit", "1000").wantExit(t, 0, id)

		key := []string{"Idempotency-Key: " + t.Name()}
		first := p.accept(t, name, map[string]any{"do": "echo", "value": 1}, key...)
		if again := p.accept(t, name, map[string]any{"do": "echo", "value": 1}, key...); again != first {
			t.Errorf("the repeat became %s, the first was %s", again, first)
		}
		p.ended(t, first, wire.StateSucceeded)
	})
}

// TestDeadLetters: what fails is tried again, is kept, and comes back.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: dying\nruntime: python\nhandler: app.handler\nretry: {attempts: 2, delay: 100ms}\n", "probe/app.py")
		id := p.accept(t, name, map[string]any{"do": "nothing that there is"})
		r := p.ended(t, id, wire.StateDead)
		if len(r.Attempts) != 2 || r.Error == nil || r.Error.Code != wire.CodeFunctionError {
			t.Errorf("record %+v", r)
		}
		p.cli(t, "dlq", "list", name).wantExit(t, 0, string(id), "function.error", "nothing that there is")
		p.cli(t, "dlq", "show", name, string(id)).wantExit(t, 0, "nothing that there is", "attempt 2")
		p.cli(t, "result", string(id)).wantExit(t, 4, "dlq show")
		p.cli(t, "dlq", "redrive", name, string(id)).wantExit(t, 0, "redriven 1")
		eventually(t, patience, func() error {
			var r wire.Record
			a, err := p.request(http.MethodGet, "/v1/invocations/"+string(id), nil)
			if err == nil {
				err = json.Unmarshal(a.body, &r)
			}
			if err == nil && (r.State != wire.StateDead || r.Redrives != 1 || len(r.Attempts) != 4) {
				err = fmt.Errorf("record %+v", r)
			}
			return err
		})
		p.cli(t, "dlq", "purge", name, "--all").wantExit(t, 0, "purged 1")
		p.cli(t, "dlq", "list", name).wantExit(t, 0, "no dead letters")
	})
}

// TestCancelled: an event that runs is killed, and one that waits behind it never runs.
func TestCancelled(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: cancelled\nruntime: python\nhandler: app.handler\nmaxInstances: 1\ntimeout: 10m\n", "probe/app.py")
		running := p.accept(t, name, sleepFor(500))
		eventually(t, patience, func() error {
			a, err := p.request(http.MethodGet, "/v1/functions/"+name+"/logs", nil)
			if err == nil && !strings.Contains(string(a.body), "in flight") {
				err = fmt.Errorf("it does not run yet: %s", a.body)
			}
			return err
		})
		waiting := p.accept(t, name, map[string]any{"do": "print", "lines": []string{"never"}})
		for _, id := range []wire.InvocationID{waiting, running} {
			p.cli(t, "cancel", string(id)).wantExit(t, 0, "cancelled")
			p.ended(t, id, wire.StateCancelled)
		}
		// The only instance is free again.
		last := p.accept(t, name, map[string]any{"do": "echo", "value": 1})
		p.ended(t, last, wire.StateSucceeded)
		if a := p.do(t, http.MethodGet, "/v1/functions/"+name+"/logs", nil); strings.Contains(string(a.body), "never") {
			t.Errorf("what was cancelled before it ran printed: %s", a.body)
		}
	})
}
