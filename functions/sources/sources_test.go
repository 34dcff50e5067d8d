package sources

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	orders = wire.FunctionID{Namespace: "team-a", Name: "orders"}
	report = wire.FunctionID{Namespace: "team-a", Name: "orders-report"}
)

func onSubject(subject string) functions.Trigger {
	return functions.Trigger{Queue: &functions.QueueTrigger{Subject: subject, Batch: functions.BatchSpec{Size: 1}}}
}

func onStream(stream, subject string) functions.Trigger {
	t := onSubject(subject)
	t.Queue.Stream = stream
	return t
}

func onSchedule(schedule string) functions.Trigger {
	return functions.Trigger{Cron: &functions.CronTrigger{Schedule: schedule, Timezone: "UTC", Missed: functions.MissedOnce}}
}

func onBucket(bucket string) functions.Trigger {
	return functions.Trigger{Bucket: &functions.BucketTrigger{Bucket: bucket, Events: functions.BucketEvents()}}
}

func open(t *testing.T, cfg Config) (*Sources, *bus.Conn) {
	t.Helper()
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	s := New(cfg, conn, embedtest.Discard())
	for range 2 { // again: nothing changes
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return s, conn
}

func version(f wire.FunctionID, triggers ...functions.Trigger) functions.Version {
	return functions.Version{VersionID: wire.VersionID{FunctionID: f, Number: 1}, Spec: functions.Spec{Triggers: triggers}}
}

func wantInbox(t *testing.T, conn *bus.Conn, want ...string) {
	t.Helper()
	got, err := conn.StreamSubjects(t.Context(), wire.StreamInbox)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(append(want, wire.NotificationSubject))), got); diff != "" {
		t.Errorf("the inbox (-want +got):\n%s", diff)
	}
}

func wantConsumers(t *testing.T, conn *bus.Conn, want ...string) {
	t.Helper()
	sources, err := conn.Sources(t.Context(), wire.TriggerConsumers)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sources {
		got = append(got, s.Stream+"/"+s.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("consumers (-want +got):\n%s", diff)
	}
}

func consumerName(f wire.FunctionID, trigger functions.Trigger) string {
	c := ConsumerOf(f, trigger)
	return c.Stream + "/" + c.Name
}

// count takes what a trigger has, of which subject is one that it listens to.
func count(t *testing.T, conn *bus.Conn, f wire.FunctionID, trigger functions.Trigger, subject string) int {
	t.Helper()
	c := ConsumerOf(f, trigger)
	return len(embedtest.Take(t, conn, c.Stream, c.Name, subject))
}

// TestCapturedFromTheDeployOn: a message belongs to the triggers that were there, and
// keeps its place when a deploy changes what does not say where.
func TestCapturedFromTheDeployOn(t *testing.T) {
	s, conn := open(t, Config{})
	send := func(subject string) error {
		_, err := conn.Send(t.Context(), bus.Outgoing{Subject: subject, Data: []byte("x")})
		return err
	}
	if err := send("orders.created"); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("before the deploy: %v", err)
	}
	all, created := onSubject("orders.*"), onSubject("orders.created")
	if err := s.Prepare(t.Context(), orders, []functions.Trigger{created}); err != nil {
		t.Fatal(err)
	}
	wantInbox(t, conn, "orders.created")
	if err := send("orders.created"); err != nil {
		t.Error(err)
	}
	if err := s.Prepare(t.Context(), report, []functions.Trigger{all}); err != nil {
		t.Fatal(err)
	}
	wantInbox(t, conn, "orders.*")
	for _, subject := range []string{"orders.created", "orders.paid"} {
		if err := send(subject); err != nil {
			t.Error(err)
		}
	}
	batched := onSubject("orders.created")
	batched.Queue.Batch.Size = 10
	if err := s.Prepare(t.Context(), orders, []functions.Trigger{batched}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, conn, orders, batched, "orders.created"); n != 2 {
		t.Errorf("orders.created came %d times", n)
	}
	if n := count(t, conn, report, all, "orders.x"); n != 2 {
		t.Errorf("orders.* came %d times", n)
	}
}

func TestOverlapWithAStreamOfTheUser(t *testing.T) {
	s, conn := open(t, Config{})
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	err := s.Prepare(t.Context(), orders, []functions.Trigger{onSubject("orders.*")})
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), `as in queue: {stream: ORDERS, subject: "orders.*"}`) {
		t.Errorf("%v", err)
	}
	wantConsumers(t, conn)
	wantInbox(t, conn)
	named := onStream("ORDERS", "orders.*")
	if err := s.Prepare(t.Context(), orders, []functions.Trigger{named}); err != nil {
		t.Fatal(err)
	}
	wantConsumers(t, conn, consumerName(orders, named))
	if _, err := conn.Send(t.Context(), bus.Outgoing{Subject: "orders.created"}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, conn, orders, named, "orders.x"); n != 1 {
		t.Errorf("came %d times", n)
	}
	err = s.Prepare(t.Context(), orders, []functions.Trigger{onStream("MISSING", "")})
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "there is no JetStream stream MISSING") {
		t.Errorf("%v", err)
	}
}

// TestWorkQueueOfTheUser: what waits in it is taken, and only one may.
func TestWorkQueueOfTheUser(t *testing.T) {
	s, conn := open(t, Config{})
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "JOBS", Subjects: []string{"jobs.>"}, Queue: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Send(t.Context(), bus.Outgoing{Subject: "jobs.a"}); err != nil {
		t.Fatal(err)
	}
	jobs := onStream("JOBS", "")
	if err := s.Prepare(t.Context(), orders, []functions.Trigger{jobs}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, conn, orders, jobs, "jobs.x"); n != 1 {
		t.Errorf("came %d times", n)
	}
	err := s.Prepare(t.Context(), report, []functions.Trigger{jobs})
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "JOBS is a work queue, and another consumer takes these messages") {
		t.Errorf("%v", err)
	}
}

func TestPruneRemovesWhatIsNotWanted(t *testing.T) {
	var made []string
	s, conn := open(t, Config{OwnBucket: "dayfly", EnsureBucket: func(_ context.Context, name string) error {
		made = append(made, name)
		return nil
	}})
	cron, bucket, queue := onSchedule("0 0 1 1 *"), onBucket("up.loads"), onSubject("orders.*")
	if err := s.Prepare(t.Context(), orders, []functions.Trigger{cron, bucket, queue}); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), report, []functions.Trigger{cron}); err != nil {
		t.Fatal(err)
	}
	wantInbox(t, conn, "orders.*", "dayfly.bucket.up.loads")
	wantConsumers(t, conn, consumerName(orders, cron), consumerName(orders, bucket), consumerName(orders, queue), consumerName(report, cron))
	if !slices.Equal(made, []string{"up.loads"}) {
		t.Errorf("buckets %q", made)
	}
	if err := s.Prune(t.Context(), orders, []functions.Trigger{bucket}); err != nil {
		t.Fatal(err)
	}
	wantInbox(t, conn, "dayfly.bucket.up.loads")
	wantConsumers(t, conn, consumerName(orders, bucket), consumerName(report, cron))
	schedules, err := conn.Subjects(t.Context(), wire.StreamSchedules, wire.AllSchedules)
	if err != nil || !slices.Equal(schedules, []string{wire.ScheduleSubject(report, cron.ID())}) {
		t.Errorf("schedules %q, %v", schedules, err)
	}
	err = s.Prepare(t.Context(), orders, []functions.Trigger{onBucket("dayfly")})
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "where Dayfly keeps its own objects") {
		t.Errorf("%v", err)
	}
}

// TestReconcileMends: what is missing comes back, what nobody wants goes once it cannot
// be of a deploy under way, and one broken trigger does not keep the others from it.
func TestReconcileMends(t *testing.T) {
	s, conn := open(t, Config{})
	cron, queue, broken := onSchedule("0 0 1 1 *"), onSubject("orders.*"), onStream("MISSING", "")
	live := []functions.Version{version(orders, broken, cron, queue), version(report, queue)}
	err := s.Reconcile(t.Context(), live)
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "a trigger of orders.team-a") {
		t.Errorf("%v", err)
	}
	all := []string{consumerName(orders, cron), consumerName(orders, queue), consumerName(report, queue)}
	wantConsumers(t, conn, all...)
	wantInbox(t, conn, "orders.*")
	if err := conn.Purge(t.Context(), wire.StreamSchedules, wire.ScheduleSubject(orders, cron.ID())); err != nil {
		t.Fatal(err)
	}
	if err := conn.RemoveSource(t.Context(), wire.StreamInbox, wire.TriggerConsumer(report, queue.ID())); err != nil {
		t.Fatal(err)
	}
	live[0] = version(orders, cron, queue)
	if err := s.Reconcile(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	wantConsumers(t, conn, all...)
	if schedules, err := conn.Subjects(t.Context(), wire.StreamSchedules, wire.AllSchedules); err != nil || len(schedules) != 1 {
		t.Errorf("schedules %q, %v", schedules, err)
	}
	if err := s.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	wantConsumers(t, conn, all...) // they are too young to be left behind
}

// TestManyDeploysAtOnce: no subject of any is lost.
func TestManyDeploysAtOnce(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	var all sync.WaitGroup
	var want []string
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		want = append(want, name+".*")
		s := New(Config{}, embedtest.Connect(t, server), embedtest.Discard())
		all.Go(func() {
			if err := s.Open(t.Context()); err != nil {
				t.Error(err)
				return
			}
			f := wire.FunctionID{Namespace: "team-a", Name: name}
			if err := s.Prepare(t.Context(), f, []functions.Trigger{onSubject(name + ".*")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	wantInbox(t, embedtest.Connect(t, server), want...)
}

// TestLockOfTheDead: a lock whose holder died keeps nobody out for ever; whoever waits
// ends with its context.
func TestLockOfTheDead(t *testing.T) {
	s, conn := open(t, Config{})
	if _, err := s.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tried := 0
	if _, err := conn.Subscribe("$KV."+wire.BucketLocks+"."+wire.SourcesLock, "", func(bus.Msg) {
		if tried++; tried == 2 { // the first one was refused
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	err := s.Prepare(ctx, orders, []functions.Trigger{onSubject("a")})
	if !wire.HasCode(err, wire.CodeUnavailable) || !strings.Contains(err.Error(), "others are changing triggers") {
		t.Errorf("%v", err)
	}
}
