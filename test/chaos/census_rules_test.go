package chaos

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

func none(time.Time, time.Time) time.Duration { return 0 }

// TestWrongCalls: the census of calls sees what is wrong, and only that.
func TestWrongCalls(t *testing.T) {
	begun := time.Now()
	down := []outage{{"g1", kills, begun, begun.Add(10 * time.Second)}, {"g3", pauses, begun, begun.Add(10 * time.Second)}}
	at := func(gateway string, after, took time.Duration, status int, body string) call {
		c := call{order: order{ID: "a"}, gateway: gateway, sent: begun.Add(after), answered: begun.Add(after + took), reply: reply{status: status, body: body}}
		if status == 0 {
			c.err = errors.New("refused")
		}
		return c
	}
	endless := at("g2", 0, time.Second, 200, `{"id":"a","spins":true}`)
	endless.Spins = true
	for name, test := range map[string]struct {
		call call
		want string
	}{
		"answered":               {at("g2", 0, time.Second, 200, `{"id":"a"}`), ""},
		"refused in time":        {at("g2", 0, 5*time.Second, 503, `{}`), ""},
		"another's answer":       {at("g2", 0, time.Second, 200, `{"id":"b"}`), "false success"},
		"half an answer":         {at("g2", 0, time.Second, 200, `{"id":"a"`), "false success"},
		"from a gateway that is": {at("g1", 0, time.Second, 200, `{"id":"b"}`), "false success"},
		"endless":                {endless, "never ends"},
		"none":                   {at("g2", 0, time.Second, 0, ""), "no answer"},
		"none of one that was":   {at("g1", -time.Second, 2*time.Second, 0, ""), ""},
		"none before that":       {at("g1", -2*time.Second, time.Second, 0, ""), "no answer"},
		"none after that":        {at("g1", 11*time.Second, time.Second, 0, ""), "no answer"},
		"long after that":        {at("g1", time.Second, 9*time.Second+answerWithin, 0, ""), ""},
		"never after that":       {at("g1", time.Second, 9*time.Second+answerWithin+time.Millisecond, 0, ""), "too late"},
		"none of one that slept": {at("g3", time.Second, 2*time.Second, 0, ""), "no answer"},
		"when it woke":           {at("g3", -time.Second, 11*time.Second+answerWithin, 503, ""), ""},
		"long after it woke":     {at("g3", time.Second, 9*time.Second+answerWithin+time.Millisecond, 503, ""), "too late"},
		"late":                   {at("g2", 0, answerWithin+time.Millisecond, 503, ""), "too late"},
	} {
		got := strings.Join(wrongCalls([]call{test.call}, down, none), "\n")
		if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	late := at("g2", 0, answerWithin+time.Second, 503, "")
	late.start = time.Second
	if got := wrongCalls([]call{late}, nil, none); len(got) > 0 {
		t.Errorf("after a slow start: %v", got)
	}
	late.start = 0
	if got := wrongCalls([]call{late}, nil, func(time.Time, time.Time) time.Duration { return time.Second }); len(got) > 0 {
		t.Errorf("on a machine that is late itself: %v", got)
	}
}

// TestUnwell: a call fails when all is well only for want of a processor.
func TestUnwell(t *testing.T) {
	well := time.Now()
	half := func(from, to time.Time) time.Duration { return to.Sub(from) / 2 }
	at := func(after time.Duration, status int) call {
		return call{sent: well.Add(after), answered: well.Add(after + 2*time.Second), reply: reply{status: status}}
	}
	endless := at(time.Second, 504)
	endless.Spins = true
	for name, test := range map[string]struct {
		call  call
		slack func(from, to time.Time) time.Duration
		wrong bool
	}{
		"before": {at(-time.Second, 503), none, false}, "answered": {at(time.Second, 200), none, false}, "endless": {endless, none, false},
		"failed": {at(time.Second, 429), none, true}, "busy machine": {at(time.Second, 429), half, false}, "no answer": {at(time.Second, 0), half, true},
	} {
		if got := unwell([]call{test.call}, well, test.slack); (len(got) > 0) != test.wrong {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestFate: an event must end as its order says.
func TestFate(t *testing.T) {
	done := wire.Record{State: wire.StateSucceeded, Output: &wire.Output{}}
	after := func(codes ...wire.Code) wire.Record {
		r := wire.Record{State: wire.StateDead}
		for _, c := range codes {
			r.Attempts = append(r.Attempts, wire.Attempt{Error: &wire.Error{Code: c}})
		}
		return r
	}
	own, fault := wire.CodeFunctionError, wire.CodeUnavailable
	dead := after(own, own, own, own, own)
	for name, test := range map[string]struct {
		order order
		is    wire.Record
		ok    bool
	}{
		"done": {order{}, done, true}, "failed": {order{Fails: true}, dead, true},
		"failed among faults":         {order{Fails: true}, after(fault, fault, own, fault, fault), true},
		"dead of faults, for failing": {order{Fails: true}, after(fault, fault, fault, fault, fault), false},
		"given up":                    {order{Fails: true}, after(own, own, own, own), false},
		"lost":                        {order{}, wire.Record{}, false},
		"under way":                   {order{}, wire.Record{State: wire.StateRunning}, false}, "dead of faults": {order{}, dead, false},
		"false success": {order{Fails: true}, done, false}, "without output": {order{}, wire.Record{State: wire.StateSucceeded}, false},
	} {
		if err := fate(test.order, test.is); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMissing: a seed in which nothing happened is not a good one.
func TestMissing(t *testing.T) {
	answered := []call{{reply: reply{status: 500}}, {reply: reply{status: 200}}}
	accepted := []event{{}, {accepted: "a"}}
	for name, test := range map[string]struct {
		calls        []call
		events       []event
		placed, busy int
		want         string
	}{
		"all":       {answered, accepted, 1, 1, ""},
		"no answer": {answered[:1], accepted, 1, 1, "call"}, "no event": {answered, accepted[:1], 1, 1, "event"},
		"no placement": {answered, accepted, 0, 1, "placed"}, "nothing ran": {answered, accepted, 1, 0, "busy"},
	} {
		got := strings.Join(missing(test.calls, test.events, test.placed, test.busy), "\n")
		if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestRivals: one leader after the other is well; one beside the other is not.
func TestRivals(t *testing.T) {
	begun := time.Now()
	d := func(millis int, scheduler string, epoch uint64) decision {
		return decision{begun.Add(time.Duration(millis) * time.Millisecond), scheduler, epoch}
	}
	for name, test := range map[string]struct {
		all  []decision
		want string
	}{
		"one after the other": {[]decision{d(0, "a", 1), d(1, "a", 1), d(1000, "b", 5), d(1001, "b", 5)}, ""},
		"read in disorder":    {[]decision{d(0, "a", 1), d(1000, "b", 5), d(1050, "a", 1)}, ""},
		"beside":              {[]decision{d(0, "a", 1), d(1000, "b", 5), d(1200, "a", 1)}, "two leaders"},
		"one epoch":           {[]decision{d(0, "a", 1), d(1000, "b", 1)}, "epoch 1"},
	} {
		got := strings.Join(rivals(test.all, none), "\n")
		if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestTooLong: a function may run until its deadline, and a promise longer.
func TestTooLong(t *testing.T) {
	for busy, want := range map[time.Duration]bool{0: false, timeout + promise: false, timeout + promise + time.Millisecond: true} {
		if tooLong(busy, 0) != want {
			t.Errorf("%s: %t", busy, !want)
		}
	}
}

// TestSlack: what the machine itself was late by counts for the time in which it was.
func TestSlack(t *testing.T) {
	begun := time.Now()
	at := func(seconds int) time.Time { return begun.Add(time.Duration(seconds) * time.Second) }
	p := &pulse{}
	for i, waited := range []time.Duration{10 * time.Second, 10 * time.Second, 11 * time.Second, 11 * time.Second} {
		b := beat{at: at(i), waited: waited}
		if i == 2 {
			b.late = 100 * time.Millisecond
		}
		p.add(b)
	}
	for _, test := range []struct {
		from, to int
		want     time.Duration
	}{{0, 1, steps*100*time.Millisecond + 500*time.Millisecond}, {1, 3, steps*100*time.Millisecond + 500*time.Millisecond}, {3, 4, 0}} {
		if got := p.slack(at(test.from), at(test.to)); got != test.want {
			t.Errorf("from %d to %d: %s, want %s", test.from, test.to, got, test.want)
		}
	}
}
