package events_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/wire"
)

// tick is what a function gets of a schedule.
type tick struct {
	ID   wire.InvocationID `json:"id"`
	Time time.Time         `json:"time"`
}

// ticks are the events of a schedule by when they were planned, up to a moment.
func (p *platform) ticks(until time.Time) (ids map[time.Time][]wire.InvocationID, runs int) {
	p.t.Helper()
	ids = map[time.Time][]wire.InvocationID{}
	for _, r := range p.runs() {
		var at tick
		must(p.t, json.Unmarshal(r.Event, &at))
		if at.Time.After(until) {
			continue
		}
		runs++
		if known := ids[at.Time]; !slices.Contains(known, at.ID) {
			ids[at.Time] = append(known, at.ID)
		}
	}
	return ids, runs
}

// TestCronUnderKills: a schedule makes one event a tick, no more and no fewer, while one
// of three workers is killed every two seconds, and the scheduler as well.
func TestCronUnderKills(t *testing.T) {
	const kills = 10
	p := start(t, 3)
	p.deploy("clock", func(s *functions.Spec) {
		s.Triggers = []functions.Trigger{{Cron: &functions.CronTrigger{
			Schedule: "* * * * * *", Timezone: "Asia/Tokyo", Missed: functions.MissedOnce,
		}}}
	})
	within(t, startBound, "the first tick", func() error {
		if len(p.runs()) == 0 {
			return fmt.Errorf("there was none")
		}
		return nil
	})
	for i := range kills {
		pause(2 * time.Second)
		p.processes["events"][i%3].kill()
		p.processes["scheduler"][0].kill()
	}
	ends := time.Now().Truncate(time.Second)
	var ids map[time.Time][]wire.InvocationID
	var runs int
	within(t, 2*sources.AckWait+startBound, "every tick has run", func() error {
		ids, runs = p.ticks(ends)
		first := ends
		for at := range ids {
			if at.Before(first) {
				first = at
			}
		}
		for at := first; !at.After(ends); at = at.Add(time.Second) {
			if len(ids[at.UTC()]) == 0 {
				return fmt.Errorf("nothing ran for the tick of %s", at)
			}
		}
		return nil
	})
	known := map[wire.InvocationID]bool{}
	for at, of := range ids {
		if len(of) != 1 {
			t.Errorf("the tick of %s made %d events: %v", at, len(of), of)
		}
		for _, id := range of {
			known[id] = true
			if r, err := p.final(id, time.Now().Add(startBound)); err != nil || r.State != wire.StateSucceeded || r.Source != wire.SourceCron {
				t.Errorf("the event of %s: %v, %+v", at, err, r)
			}
		}
	}
	p.checkNoOtherTicks(known, ends)
	t.Logf("%d ticks made %d events, which ran %d times, while workers were killed %d times", len(ids), len(known), runs, kills)
}

// checkNoOtherTicks: no event of a tick is known of that did not run.
func (p *platform) checkNoOtherTicks(known map[wire.InvocationID]bool, until time.Time) {
	p.t.Helper()
	var list struct{ Invocations []wire.Record }
	must(p.t, p.get("/v1/functions/clock/invocations?limit=1000", &list))
	if len(list.Invocations) < len(known) {
		p.t.Errorf("%d records of %d events", len(list.Invocations), len(known))
	}
	late := until.Add(time.Second) // ticks of later seconds are accepted later
	for _, r := range list.Invocations {
		if !known[r.Invocation] && r.AcceptedAt.Before(late) {
			p.t.Errorf("an event more: %+v", r)
		}
	}
}
