package events

import (
	"strconv"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

// TestNotBefore: a pause is no longer than it was meant to be, whatever the clocks say of
// who decided it and who keeps it, and however often it is looked at.
func TestNotBefore(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		planned     time.Duration // after the event was accepted
		next, ended time.Time
		want, later time.Duration // now, and two seconds later
	}{
		"new":               {},
		"planned":           {planned: time.Hour, want: time.Hour, later: time.Hour - 2*time.Second},
		"in a pause":        {next: now.Add(3 * time.Second), ended: now.Add(-2 * time.Second), want: 3 * time.Second, later: time.Second},
		"over":              {next: now.Add(-time.Second), ended: now.Add(-6 * time.Second)},
		"by a clock ahead":  {next: now.Add(time.Hour + 5*time.Second), ended: now.Add(time.Hour), want: 5 * time.Second, later: 3 * time.Second},
		"by a clock behind": {next: now.Add(-time.Hour), ended: now.Add(-time.Hour - 5*time.Second)},
		"throttled":         {next: now.Add(3 * time.Second), want: 3 * time.Second, later: time.Second},
	} {
		var w Worker
		task := task{delivery: bus.Delivery{StoredAt: now}}
		if test.planned > 0 { // the gateway's clock is another one
			task.event.AcceptedAt = now.Add(-time.Hour)
			task.event.NotBefore = task.event.AcceptedAt.Add(test.planned)
		}
		if !test.next.IsZero() {
			task.entry = records.Entry{Record: wire.Record{NextAttemptAt: test.next, EndedAt: test.ended}, Revision: 1}
		}
		for after, want := range map[time.Duration]time.Duration{0: test.want, 2 * time.Second: test.later} {
			if after > 0 { // in whichever order: the first look counts
				w.notBefore(&task, now)
			}
			if got := w.notBefore(&task, now.Add(after)); got != want {
				t.Errorf("%s, after %s: %s, want %s", name, after, got, want)
			}
		}
		if task.entry.Revision++; test.want > 0 && test.planned == 0 { // the next pause begins anew
			if got := w.notBefore(&task, now); got != test.want {
				t.Errorf("%s, the next pause: %s, want %s", name, got, test.want)
			}
		}
	}
}

// TestPauseOfAClockAhead ends in its time: who looks at it again when it should be over
// does not begin it anew.
func TestPauseOfAClockAhead(t *testing.T) {
	var w Worker
	now := time.Now()
	task := task{entry: records.Entry{Revision: 7, Record: wire.Record{EndedAt: now.Add(time.Hour), NextAttemptAt: now.Add(time.Hour + 5*time.Second)}}}
	first := w.notBefore(&task, now)
	if second := w.notBefore(&task, now.Add(first)); first != 5*time.Second || second != 0 {
		t.Errorf("waits %s, and then %s", first, second)
	}
	w.pauses.over(task.event.Invocation)
	if len(w.pauses.seen) > 0 {
		t.Error("a pause that is over is remembered")
	}
}

func TestPausesAreBounded(t *testing.T) {
	var p pauses
	now := time.Now()
	for i := range 3 * maxPauses {
		p.left(wire.InvocationID(strconv.Itoa(i)), 1, time.Minute, now)
		if len(p.seen) > maxPauses {
			t.Fatalf("%d pauses are remembered", len(p.seen))
		}
	}
}

// TestAgeIsByTheClockOfNATS: that of a worker, and of the gateway, may be hours away.
func TestAgeIsByTheClockOfNATS(t *testing.T) {
	nats := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, ahead := range []time.Duration{0, 7 * time.Hour, -7 * time.Hour} {
		var w Worker
		local := nats.Add(ahead)
		w.clock.observe(local.Add(-time.Millisecond), local.Add(time.Millisecond), nats)
		task := task{delivery: bus.Delivery{StoredAt: nats.Add(-time.Minute)}}
		task.event.AcceptedAt = nats.Add(30 * 24 * time.Hour)
		if age := w.age(&task, local); age < time.Minute-time.Millisecond || age > time.Minute+time.Millisecond {
			t.Errorf("by a clock %s ahead it is %s old", ahead, age)
		}
		if err := task.forbidden(w.age(&task, local)); err != nil {
			t.Errorf("by a clock %s ahead: %v", ahead, err)
		}
	}
}

// TestClockIsSteady: an answer that took long says little, and the same clock stays the
// same.
func TestClockIsSteady(t *testing.T) {
	var c clock
	local := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, late := range []time.Duration{0, time.Second, 20 * time.Second} {
		for _, part := range []time.Duration{0, late / 3, late} {
			if c.observe(local, local.Add(late), local.Add(part)); !c.at(local).Equal(local) {
				t.Errorf("an answer after %s of %s made the clock %s", part, late, c.at(local))
			}
		}
	}
	const ahead = time.Hour
	c.observe(local, local.Add(10*time.Second), local.Add(ahead+2*time.Second))
	if off := c.at(local).Sub(local) - ahead; off < -8*time.Second || off > 2*time.Second {
		t.Errorf("the clock is %s wrong", off)
	}
	c.observe(local, local.Add(time.Millisecond), local.Add(ahead))
	if off := c.at(local).Sub(local) - ahead; off < -time.Millisecond || off > 0 {
		t.Errorf("the clock is %s wrong", off)
	}
	if age := c.age(local, local.Add(2*ahead)); age != 0 {
		t.Errorf("what is still to come is %s old", age)
	}
}
