package events_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// TestLoop: a function whose results go to itself is stopped after so many events.
func TestLoop(t *testing.T) {
	p := start(t, 1)
	p.deploy("echo", func(s *functions.Spec) { s.OnSuccess = &functions.Destination{Function: "echo"} })
	if _, err := p.send("echo", "", []byte(`{"n":1}`)); err != nil {
		t.Fatal(err)
	}
	var dead struct{ DeadLetters []wire.DeadLetter }
	within(t, startBound, "the loop has ended", func() error {
		err := p.get("/v1/functions/echo/dead-letters", &dead)
		if err == nil && len(dead.DeadLetters) == 0 {
			err = errors.New("nothing is dead")
		}
		return err
	})
	letter := dead.DeadLetters[0]
	if letter.Reason == nil || letter.Reason.Code != wire.CodeInvalid || !strings.Contains(letter.Reason.Message, "a loop; look at the destinations of echo") ||
		letter.Event.Depth != wire.MaxEventDepth+1 {
		t.Errorf("%+v", letter)
	}
	if r, err := p.final(letter.Event.Cause, time.Now().Add(startBound)); err != nil || r.State != wire.StateSucceeded {
		t.Errorf("what came before: %v, %+v", err, r)
	}
	p.awaitEmpty(startBound)
	if n := len(p.runs()); n != wire.MaxEventDepth+1 {
		t.Errorf("%d runs", n)
	}
}

// TestRefused: what is no event is refused at the door, with a word on what to do, and
// leaves nothing behind.
func TestRefused(t *testing.T) {
	p := start(t, 1)
	p.deploy("echo", nil)
	async := http.Header{"Prefer": {wire.RespondAsync}, "Content-Type": {"application/json"}}
	cloud := http.Header{"Content-Type": {"application/cloudevents+json"}}
	long := async.Clone()
	long.Set(wire.HeaderIdempotencyKey, strings.Repeat("k", 10_000))
	for name, test := range map[string]struct {
		path   string
		header http.Header
		body   string
		status int
		words  string
	}{
		"no JSON":               {"/v1/functions/echo/invocations", async, `{"n":`, http.StatusBadRequest, "JSON"},
		"unknown function":      {"/v1/functions/nobody/invocations", async, `{}`, http.StatusNotFound, "nobody"},
		"unknown version":       {"/v1/functions/echo:7/invocations", async, `{}`, http.StatusNotFound, "echo has no version 7"},
		"endless key":           {"/v1/functions/echo/invocations", long, `{}`, http.StatusBadRequest, "idempotency key"},
		"unknown subject":       {"/v1/events/nobody.listens", nil, `{}`, http.StatusNotFound, "no trigger listens to nobody.listens"},
		"wildcard":              {"/v1/events/orders.*", nil, `{}`, http.StatusBadRequest, "orders.*"},
		"the platform's own":    {"/v1/events/dayfly.event.default.echo.x", nil, `{}`, http.StatusBadRequest, "dayfly."},
		"broken CloudEvent":     {"/v1/events/orders.new", cloud, `{"specversion":"1.0","id":`, http.StatusBadRequest, "CloudEvent"},
		"incomplete CloudEvent": {"/v1/events/orders.new", cloud, `{"specversion":"1.0","id":"1","source":"/x"}`, http.StatusBadRequest, "type"},
	} {
		err := p.do(http.MethodPost, test.path, test.header, []byte(test.body), nil)
		no, ok := errors.AsType[problem](err)
		if !ok || no.Status != test.status || !strings.Contains(no.Detail, test.words) || no.Code == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := p.queued(); err != nil || len(left) > 0 || len(p.runs()) > 0 {
		t.Errorf("%v wait, %d ran: %v", left, len(p.runs()), err)
	}
}
