package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func (w *world) put(target, body string) int {
	w.t.Helper()
	got := w.ask(http.MethodPut, target, strings.NewReader(body), asJSON)
	return got.Code
}

func TestVersions(t *testing.T) {
	w := newWorld(t)
	w.starting(startsAlways)
	for range 3 {
		w.deployed(hello)
	}
	for alias, body := range map[string]string{"prod": `{"version":1}`, "live": `{"version":2,"weights":{"3":10}}`} {
		if status := w.put("/v1/functions/hello/aliases/"+alias, body); status != 200 {
			t.Errorf("%s: %d", alias, status)
		}
	}
	type list struct{ Versions []listedVersion }
	var got []string
	for _, v := range decode[list](t, w.ask(http.MethodGet, "/v1/functions/hello/versions", nil), 200).Versions {
		got = append(got, fmt.Sprintf("%d %v", v.Number, v.Aliases))
	}
	if diff := cmp.Diff([]string{"3 [{live 10}]", "2 [{live 90}]", "1 [{prod 100}]"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	type aliases struct{ Aliases map[string]functions.Alias }
	want := map[string]functions.Alias{"live": {Version: 2, Weights: map[int]int{3: 10}}, "prod": {Version: 1}}
	if diff := cmp.Diff(want, decode[aliases](t, w.ask(http.MethodGet, "/v1/functions/hello/aliases", nil), 200).Aliases); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := w.ask(http.MethodDelete, "/v1/functions/hello/aliases/prod", nil); got.Code != 204 {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello:prod", nil), 404, wire.CodeNotFound, "its aliases: live")
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello:2/versions", nil), 400, wire.CodeInvalid, "without a version")
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/nobody/aliases", nil), 404, wire.CodeNotFound, "no function nobody")
}

func TestBadAliases(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	w.deployed(hello)
	for _, test := range []struct {
		alias, body string
		status      int
		code        wire.Code
		text        string
	}{
		{"prod", `{"version":7}`, 404, wire.CodeNotFound, "no version 7; its versions are 1 to 2"},
		{"live", `{"version":7}`, 404, wire.CodeNotFound, "no version 7"},
		{"7", `{"version":1}`, 400, wire.CodeInvalid, "not only digits"},
		{"Prod", `{"version":1}`, 400, wire.CodeInvalid, "lower-case"},
		{"prod", `{"version":1,"weights":{"2":100}}`, 400, wire.CodeInvalid, "from 1 to 99"},
		{"prod", `{"version":1,"weights":{"2":0}}`, 400, wire.CodeInvalid, "from 1 to 99"},
		{"prod", `{"version":1,"weights":{"1":10}}`, 400, wire.CodeInvalid, "is the main one"},
		{"prod", `{"version":1,"weights":{"3":10}}`, 404, wire.CodeNotFound, "no version 3"},
		{"prod", `{"version":1,"weights":{"1":10,"2":10}}`, 400, wire.CodeInvalid, "two versions at most"},
		{"prod", `{"version":"one"}`, 400, wire.CodeInvalid, "integer"},
	} {
		wantProblem(t, w.ask(http.MethodPut, "/v1/functions/hello/aliases/"+test.alias, strings.NewReader(test.body), asJSON), test.status, test.code, test.text)
	}
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/hello/aliases/live", nil), 400, wire.CodeInvalid, "cannot be removed")
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/hello/aliases/prod", nil), 404, wire.CodeNotFound, `no alias "prod"`)
}

func TestRollback(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/hello/rollback", nil), 409, wire.CodeConflict, "nothing of function hello was live before version 1")
	w.deployed(hello)
	type answer struct{ From, To int }
	// What was live needs no trial: nobody starts anything here.
	if got := decode[answer](t, w.ask(http.MethodPost, "/v1/functions/hello/rollback", nil), 200); got != (answer{2, 1}) || w.live(hello) != 1 {
		t.Errorf("%+v, live is %d", got, w.live(hello))
	}
	if got := decode[answer](t, w.ask(http.MethodPost, "/v1/functions/hello/rollback", strings.NewReader(`{"to":2}`), asJSON), 200); got != (answer{1, 2}) || w.live(hello) != 2 {
		t.Errorf("%+v, live is %d", got, w.live(hello))
	}
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/hello/rollback", strings.NewReader(`{"to":9}`), asJSON), 404, wire.CodeNotFound, "no version 9")
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/nobody/rollback", nil), 404, wire.CodeNotFound, "no function nobody")
}

// TestSplitCalls: each call of an alias that splits goes to one of its versions, and a
// number is never split.
func TestSplitCalls(t *testing.T) {
	w := newWorld(t)
	v := w.deployed(hello)
	w.deployed(hello)
	w.node(v, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		return &wire.InvokeReply{Instance: "i1"}, bytes.Clone(event)
	})
	w.scheduler(wire.PlaceReply{Node: "n1", Lease: "l1"})
	if status := w.put("/v1/functions/hello/aliases/live", `{"version":1,"weights":{"2":50}}`); status != 200 {
		t.Fatal(status)
	}
	seen := map[string]int{}
	// A fair coin does not fall on one side that often.
	embedtest.Eventually(t, "both versions are called", func() bool {
		got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader("{}"))
		seen[got.Header().Get(wire.HeaderVersion)]++
		return seen["1"] > 0 && seen["2"] > 0
	})
	if len(seen) != 2 {
		t.Errorf("versions %v", seen)
	}
	for range 20 {
		if got := w.ask(http.MethodPost, "/v1/functions/hello:2/invocations", strings.NewReader("{}")); got.Header().Get(wire.HeaderVersion) != "2" {
			t.Errorf("%d %v", got.Code, got.Header())
		}
	}
}

func TestCode(t *testing.T) {
	w := newWorld(t)
	v := w.deployed(hello)
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello/code", nil), 500, wire.CodeInternal, "is not in S3")
	if err := w.store.PutBytes(t.Context(), wire.CodeKey(v.Code), []byte("a gzip tar"), "application/gzip"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Delete(context.Background(), wire.CodeKey(v.Code)) })
	got := w.ask(http.MethodGet, "/v1/functions/hello:1/code", nil)
	if got.Code != 200 || got.Body.String() != "a gzip tar" || got.Header().Get("Content-Type") != "application/gzip" || got.Header().Get(wire.HeaderVersion) != "1" {
		t.Errorf("%d %v %s", got.Code, got.Header(), got.Body)
	}
}

// TestTriggersFollowLive: what listens is what the main version of live says, whichever
// way live moves.
func TestTriggersFollowLive(t *testing.T) {
	w := newWorld(t)
	w.starting(startsAlways)
	w.deployed(hello)
	w.deployed(hello, func(s *functions.Spec) {
		s.Triggers = []functions.Trigger{{Queue: &functions.QueueTrigger{Subject: "orders.created"}}}
	})
	consumers := func() []bus.Source {
		t.Helper()
		sources, err := w.conn.Sources(t.Context(), wire.TriggerConsumers)
		if err != nil {
			t.Fatal(err)
		}
		return sources
	}
	for _, step := range []struct {
		what, method, target, body string
		want                       int
	}{
		{"rolled back to none", http.MethodPost, "rollback", "{}", 0},
		{"set to those of version 2", http.MethodPut, "aliases/live", `{"version":2}`, 1},
		{"split, with those of the main version", http.MethodPut, "aliases/live", `{"version":2,"weights":{"1":50}}`, 1},
		{"another alias changes nothing", http.MethodPut, "aliases/prod", `{"version":1}`, 1},
		{"split the other way", http.MethodPut, "aliases/live", `{"version":1,"weights":{"2":50}}`, 0},
	} {
		if got := w.ask(step.method, "/v1/functions/hello/"+step.target, strings.NewReader(step.body), asJSON); got.Code != 200 {
			t.Errorf("%s: %d %s", step.what, got.Code, got.Body)
		}
		if got := consumers(); len(got) != step.want || slices.ContainsFunc(got, func(s bus.Source) bool { return s.Stream != wire.StreamInbox }) {
			t.Errorf("%s: %+v", step.what, got)
		}
	}
}
