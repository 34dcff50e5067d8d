package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// near is how long before a run or after it a kill may have been that made it be for
	// nothing: what was asked for in the meantime, and the time in which an event whose
	// worker is gone is given to another one, on a machine that is busy.
	near = 30 * time.Second
	// clockSlack is what two processes may differ in when they say when something was.
	clockSlack = 20 * time.Millisecond
)

// census counts what became of events.
type census struct {
	p        *platform
	t        *testing.T
	function wire.FunctionID
	deaths   []death
	runs     map[order][]run

	succeeded, dead, deadOfFaults int
	once                          int // events that ran once
	failing                       int // runs beyond the first of events that always fail
	again, attempted, unrecorded  int // such runs of others, and why
}

// identity is what tells events apart in what functions noted.
func (o order) identity() order { return order{N: o.N, Try: o.Try} }

func newCensus(p *platform, f wire.FunctionID, deaths []death) *census {
	p.t.Helper()
	c := &census{p: p, t: p.t, function: f, deaths: deaths, runs: map[order][]run{}}
	for _, r := range p.runs() {
		var o order
		must(p.t, json.Unmarshal(r.Event, &o))
		c.runs[o.identity()] = append(c.runs[o.identity()], r)
	}
	return c
}

// count looks at every event and says what it found.
func (c *census) count(all []sent, records map[wire.InvocationID]wire.Record) {
	c.t.Helper()
	ids := map[wire.InvocationID]bool{}
	for _, s := range all {
		if ids[s.id] {
			c.t.Errorf("%s is the ID of two events", s.id)
		}
		ids[s.id] = true
		c.check(s, records[s.id])
	}
	answered := map[order]bool{}
	for _, s := range all {
		answered[s.order.identity()] = true
	}
	lost := 0
	for o := range c.runs {
		if !answered[o] {
			lost++
		}
	}
	kills := map[string]int{}
	for _, d := range c.deaths {
		kills[d.role]++
	}
	for _, role := range victims {
		alone := 0
		for _, p := range c.p.processes[role] {
			alone += p.endsAlone()
		}
		if kills[role] < 2 {
			c.t.Errorf("%s was killed %d times only", role, kills[role])
		}
		c.t.Logf("%-9s killed %d times; ended by itself %d times", role, kills[role], alone)
	}
	c.t.Logf("%d events accepted: %d succeeded, %d dead, of these %d because of faults", len(all), c.succeeded, c.dead, c.deadOfFaults)
	c.t.Logf("%d events ran once; those that always fail ran %d times more; %d runs of others were repeats: %d are attempts in the records, %d were cut off with whoever would have told",
		c.once, c.failing, c.again, c.attempted, c.unrecorded)
	c.t.Logf("%d events ran whose answer was lost and that have no key", lost)
}

// check looks at one event.
func (c *census) check(s sent, r wire.Record) {
	c.t.Helper()
	runs := c.runs[s.order.identity()]
	switch r.State {
	case wire.StateSucceeded:
		c.succeeded++
		if s.order.Fails || len(runs) == 0 || r.Output == nil || r.Error != nil {
			c.t.Errorf("event %d succeeded with %d runs: %+v", s.order.N, len(runs), r)
		}
		c.checkOutput(s)
	case wire.StateDead:
		c.dead++
		if !s.order.Fails {
			c.deadOfFaults++
		}
		c.checkDead(s, r, len(runs))
	default:
		c.t.Errorf("event %d is %q: %+v", s.order.N, r.State, r)
	}
	if len(runs) == 1 {
		c.once++
	}
	if s.calm && !s.order.Fails && (len(runs) != 1 || r.State != wire.StateSucceeded) {
		c.t.Errorf("event %d ran %d times, though nobody was killed, and is %s", s.order.N, len(runs), r.State)
	}
	c.explain(s, r, runs)
}

// checkOutput: what the record says is in S3.
func (c *census) checkOutput(s sent) {
	c.t.Helper()
	want, err := json.Marshal(s.order)
	must(c.t, err)
	got, err := c.p.store.GetBytes(c.t.Context(), wire.OutputResultKey(c.function, s.id), wire.MaxEvent)
	if errors.Is(err, blob.ErrNotFound) || err == nil && !bytes.Equal(got, want) {
		c.t.Errorf("event %d succeeded, but its output is %q: %v", s.order.N, got, err)
	}
	must(c.t, err)
}

// checkDead: it says why, was tried as often as it may be, and is among the dead letters.
func (c *census) checkDead(s sent, r wire.Record, runs int) {
	c.t.Helper()
	var letter struct {
		wire.DeadLetter
		Payload order `json:"payload"`
	}
	if err := c.p.get("/v1/functions/"+c.function.Name+"/dead-letters/"+string(s.id), &letter); err != nil {
		c.t.Errorf("event %d is dead, but: %v", s.order.N, err)
	}
	if r.Error == nil || letter.Reason == nil || letter.Payload != s.order || len(letter.Event.Attempts) != len(r.Attempts) {
		c.t.Errorf("event %d: record %+v, dead letter %+v", s.order.N, r, letter)
		return
	}
	if s.order.Fails {
		if r.Error.Code == wire.CodeFunctionError && runs == 0 {
			c.t.Errorf("event %d failed and never ran: %+v", s.order.N, r)
		}
		return
	}
	if len(r.Attempts) < 5 {
		c.t.Errorf("event %d is dead after %d attempts: %+v", s.order.N, len(r.Attempts), r.Error)
	}
	c.t.Logf("event %d is dead: %v", s.order.N, r.Error)
}

// explain says of each run beyond the first why there was one more: an attempt that
// failed is in the record. One that no record tells of was cut off: its worker, its node or
// NATS was killed at that time.
func (c *census) explain(s sent, r wire.Record, runs []run) {
	c.t.Helper()
	if len(runs) < 2 {
		return
	}
	left := slices.Clone(r.Attempts)
	unknown := 0
	for _, run := range runs {
		i := slices.IndexFunc(left, func(a wire.Attempt) bool {
			during := run.At.After(a.StartedAt.Add(-clockSlack)) && run.At.Before(a.EndedAt.Add(clockSlack))
			return during && (a.Instance == "" || string(a.Instance) == run.Instance)
		})
		if i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		unknown++
		if !slices.ContainsFunc(c.deaths, func(d death) bool {
			between := d.at.After(run.At.Add(-near)) && d.at.Before(run.At.Add(near))
			return between && slices.Contains([]string{"events", childNode, childNATS}, d.role)
		}) {
			c.t.Errorf("nobody was killed, but event %d ran at %s and no attempt tells of it: %+v", s.order.N, run.At, r.Attempts)
		}
	}
	if s.order.Fails {
		c.failing += len(runs) - 1
		return
	}
	c.again += len(runs) - 1
	c.unrecorded += unknown
	c.attempted += len(runs) - 1 - unknown
}
