package triggers

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/sources"
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
	if age := time.Since(got.Time); age < 0 || age > 10*time.Second || got.Time.Nanosecond() != 0 {
		t.Errorf("planned for %s", got.Time)
	}
}

// TestOnceATick: three workers, of which one is killed every two seconds.
func TestOnceATick(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := everySecond()
	w.deploy(functions.Trigger{Cron: &c})
	workers := []*worker{w.join(), w.join(), w.join()}
	t.Cleanup(func() {
		for _, v := range workers {
			v.leave(t)
		}
	})
	kill := time.NewTicker(2 * time.Second)
	defer kill.Stop()
	for victim := range 5 {
		<-kill.C
		workers[victim%3].kill(t)
		workers[victim%3] = w.join()
	}
	ends := time.Now()
	// What a killed worker held comes again after a while.
	var times []time.Time
	within(t, 2*sources.AckWait, "every tick is accepted", func() bool {
		times = planned(t, w.events())
		return len(times) > 0 && times[len(times)-1].After(ends) && int(times[len(times)-1].Sub(times[0])/time.Second) <= len(times)-1
	})
	for i, at := range times {
		if want := times[0].Add(time.Duration(i) * time.Second); !at.Equal(want) {
			t.Fatalf("tick %d is of %s, want %s: %v", i, at, want, times)
		}
	}
	t.Logf("%d ticks, one event each", len(times))
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
			w.deploy(trigger)
			ticks := wire.TickSubject(hello, trigger.ID())
			var last bus.StoredMessage
			within(t, 15*time.Second, "ticks wait", func() (enough bool) {
				info, err := w.conn.LastMessage(t.Context(), wire.StreamSchedules, ticks)
				last = info
				return err == nil && info.Sequence > 4
			})
			// The schedule ends here, so that no tick comes that is not missed.
			if err := w.conn.Purge(t.Context(), wire.StreamSchedules, wire.ScheduleSubject(hello, trigger.ID())); err != nil {
				t.Fatal(err)
			}
			v := w.joinAs(Config{MissedAfter: time.Nanosecond}, func(*bus.Conn) Sources { return asTheyAre{} })
			defer v.leave(t)
			within(t, 15*time.Second, "all ticks are looked at", func() bool {
				left, err := w.conn.DropConsumer(context.WithoutCancel(t.Context()), wire.StreamSchedules, wire.TriggerConsumer(hello, trigger.ID()))
				return err == nil && left
			})
			late := planned(t, w.events())
			if len(late) != want || want > 0 && last.StoredAt.Sub(late[0]) > 5*time.Second {
				t.Errorf("%v, the last tick was at %s", late, last.StoredAt)
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
