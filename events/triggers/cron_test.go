package triggers

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// everySecond is as often as a schedule may tick.
func everySecond() functions.CronTrigger {
	return functions.CronTrigger{Schedule: "* * * * * *", Timezone: "Asia/Tokyo", Missed: functions.MissedOnce}
}

// planned lists when the ticks of events were to come, in order.
func planned(t *testing.T, events []accepted) (times []time.Time) {
	t.Helper()
	for _, e := range events {
		var s scheduled
		if err := json.Unmarshal(e.payload, &s); err != nil {
			t.Fatal(err)
		}
		times = append(times, s.Time)
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

func TestATickIsAnEventBridgeEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := everySecond()
	c.Payload = json.RawMessage(`{"report":"daily"}`)
	trigger := functions.Trigger{Cron: &c}
	w.deploy(trigger)
	w.start()
	embedtest.Eventually(t, "a tick", func() bool { return len(w.events()) > 0 })
	e := w.events()[0]
	var got scheduled
	if err := json.Unmarshal(e.payload, &got); err != nil {
		t.Fatal(err)
	}
	want := scheduled{
		Version: "0", ID: string(e.Invocation), DetailType: "Scheduled Event", Source: "dayfly.cron", Schedule: "* * * * * *", Timezone: "Asia/Tokyo",
		Resources: []string{"arn:dayfly:cron:::hello.team-a/" + string(trigger.ID())}, Detail: c.Payload,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(scheduled{}, "Time")); diff != "" || e.Source != wire.SourceCron {
		t.Errorf("%s (-want +got):\n%s", e.Source, diff)
	}
	if age := time.Since(got.Time); age < 0 || age > time.Minute || got.Time.Nanosecond() != 0 {
		t.Errorf("planned for %s", got.Time)
	}
}

// probe follows the ticks of a trigger of hello from before it is deployed, and what is
// sent to the mark.
func (w *world) probe(trigger functions.Trigger) (c bus.SourceConfig, mark string) {
	w.t.Helper()
	ticks, mark := wire.TickSubject(hello, trigger.ID()), wire.TickSubject(hello, "mark")
	c = bus.SourceConfig{Stream: wire.StreamSchedules, Name: "probe", Subjects: []string{ticks, mark}, AckWait: time.Hour, MaxHeld: 100}
	if err := w.conn.EnsureSource(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
	return c, mark
}

// plannedFor is when a tick of every second was to come.
func plannedFor(t *testing.T, d bus.Delivery) time.Time {
	t.Helper()
	next, ok := d.ScheduleNext()
	if !ok {
		t.Fatalf("%+v is no tick", d)
	}
	return next.Add(-time.Second)
}

// TestOnceATick: three workers, of which one is killed every now and then. A server that
// is busy may leave ticks out.
func TestOnceATick(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := everySecond()
	trigger := functions.Trigger{Cron: &c}
	probe, mark := w.probe(trigger)
	w.deploy(trigger)
	workers := []*worker{w.join(), w.join(), w.join()}
	t.Cleanup(func() {
		for _, v := range workers {
			v.leave(t)
		}
	})
	kill := time.NewTicker(900 * time.Millisecond)
	defer kill.Stop()
	for victim := range 6 {
		<-kill.C
		workers[victim%3].kill(t)
		workers[victim%3] = w.join()
	}
	var want, got []time.Time
	for _, d := range embedtest.Take(t, w.conn, probe.Stream, probe.Name, mark) {
		want = append(want, plannedFor(t, d))
	}
	// What a killed worker held comes again after a while.
	embedtest.Eventually(t, "every tick is accepted", func() bool {
		got = planned(t, w.events())
		return !slices.ContainsFunc(want, func(at time.Time) bool { return !slices.ContainsFunc(got, at.Equal) })
	})
	if got = got[:len(want)]; !slices.EqualFunc(want, got, time.Time.Equal) || len(want) == 0 { // others came since
		t.Errorf("ticks %v, want %v", got, want)
	}
}

// asTheyAre leaves what triggers listen to as it is.
type asTheyAre struct{}

func (asTheyAre) Trim(context.Context, uint64) (uint64, error)         { return 0, nil }
func (asTheyAre) Open(context.Context) error                           { return nil }
func (asTheyAre) Reconcile(context.Context, []functions.Version) error { return nil }

// TestMissedTicks: of those that nobody took in time the latest runs, or none.
func TestMissedTicks(t *testing.T) {
	t.Parallel()
	for missed, want := range map[string]int{functions.MissedOnce: 1, functions.MissedSkip: 0} {
		t.Run(missed, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := everySecond()
			c.Missed = missed
			trigger := functions.Trigger{Cron: &c}
			probe, mark := w.probe(trigger)
			w.deploy(trigger)
			embedtest.Eventually(t, "ticks wait", func() bool {
				last, err := w.conn.LastMessage(t.Context(), wire.StreamSchedules, wire.TickSubject(hello, trigger.ID()))
				return err == nil && last.Sequence > 3
			})
			// The schedule ends here, so that no tick comes that is not missed.
			if err := w.conn.Purge(t.Context(), wire.StreamSchedules, wire.ScheduleSubject(hello, trigger.ID())); err != nil {
				t.Fatal(err)
			}
			ticks := embedtest.Take(t, w.conn, probe.Stream, probe.Name, mark)
			v := w.joinAs(Config{MissedAfter: time.Nanosecond}, func(*bus.Conn) Sources { return asTheyAre{} })
			defer v.leave(t)
			// What every consumer is done with is trimmed.
			var done uint64
			embedtest.Eventually(t, "all ticks are looked at", func() bool {
				var err error
				if done, err = w.conn.Trim(t.Context(), wire.StreamSchedules, done); err != nil {
					t.Fatal(err)
				}
				_, err = w.conn.LastMessage(t.Context(), wire.StreamSchedules, wire.TickSubject(hello, trigger.ID()))
				return errors.Is(err, bus.ErrNotFound)
			})
			late := planned(t, w.events())
			if last := plannedFor(t, ticks[len(ticks)-1]); len(late) != want || want > 0 && !late[0].Equal(last) {
				t.Errorf("%v, the last tick was at %s", late, last)
			}
		})
	}
}

// TestSchedulesSurviveTheServer: nothing but the server's disk knows of them.
func TestSchedulesSurviveTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := everySecond()
	w.deploy(functions.Trigger{Cron: &c})
	w.conn.Close()
	w.server.Stop()
	w.server = embedtest.NATS(t, w.dir)
	w.conn = embedtest.Connect(t, w.server)
	w.start()
	embedtest.Eventually(t, "a tick", func() bool { return len(w.events()) > 0 })
}
