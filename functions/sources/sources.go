// Package sources sets up what triggers listen to: the streams that keep messages and
// schedules, a consumer for each trigger, and the buckets. A deploy does it before it
// answers, so that nothing is missed from then on; the events workers mend what is
// missing and clear what nobody wants any more.
package sources

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// AckWait is how long who takes a trigger's messages may be silent about one.
	AckWait = 10 * time.Second
	// TickTTL is how long a tick of a schedule waits for somebody to take it.
	TickTTL = 7 * 24 * time.Hour
	// maxTicks bounds the ticks of one schedule that wait; the oldest make room.
	maxTicks = 1000
	// inboxBytes and schedulesBytes bound the streams. A full inbox refuses messages.
	inboxBytes, schedulesBytes = 8 << 30, 256 << 20
	// maxTriggers bounds the triggers that listen to one stream.
	maxTriggers = 1 << 20
	// MaxHeld bounds the messages of a trigger that are taken and not acknowledged.
	MaxHeld = 4096
	// settleAfter is how long a consumer that no known function wants is left alone: its
	// deploy may be under way.
	settleAfter = 2 * time.Minute
)

// Config says where triggers may listen. The zero value is of use.
type Config struct {
	// OwnBucket is the S3 bucket that Dayfly itself writes to, which no trigger may
	// watch.
	OwnBucket string
	// EnsureBucket makes an S3 bucket when there is none; nil where the S3 server is not
	// Dayfly's to make buckets in.
	EnsureBucket func(ctx context.Context, name string) error
	// Replicas is how many NATS servers keep each stream; 0 for one.
	Replicas int
}

// Sources sets up what triggers listen to. It is safe for concurrent use; what it
// changes, only one process of all changes at a time.
type Sources struct {
	cfg   Config
	conn  *bus.Conn
	locks *bus.Bucket
	log   *slog.Logger
}

// New makes Sources; Open comes before all else.
func New(cfg Config, conn *bus.Conn, log *slog.Logger) *Sources {
	return &Sources{cfg: cfg, conn: conn, log: log}
}

// OwnBucket is the S3 bucket that no trigger may watch; empty for none.
func (s *Sources) OwnBucket() string { return s.cfg.OwnBucket }

// Open opens the streams. It may be called again.
func (s *Sources) Open(ctx context.Context) error {
	locks, err := s.conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketLocks, TTL: lockTTL, MaxValueBytes: 1 << 10, Replicas: s.cfg.Replicas})
	if err != nil {
		return err
	}
	s.locks = locks
	if err := s.conn.EnsureStream(ctx, bus.StreamConfig{
		Name: wire.StreamSchedules, Subjects: []string{wire.AllSchedules, wire.AllTicks}, MaxBytes: schedulesBytes,
		MaxPerSubject: maxTicks, MaxConsumers: maxTriggers, Schedules: true, Replicas: s.cfg.Replicas,
	}); err != nil {
		return err
	}
	return s.locked(ctx, func(ctx context.Context) error {
		// One that is there has subjects already, which are not ours to forget.
		_, err := s.conn.StreamSubjects(ctx, wire.StreamInbox)
		if !errors.Is(err, bus.ErrNotFound) {
			return err
		}
		return s.setInbox(ctx, nil)
	})
}

// Trim removes from the inbox, up to a sequence, what every trigger is done with. It
// returns what to say the next time; see [bus.Conn.Trim].
func (s *Sources) Trim(ctx context.Context, upTo uint64) (last uint64, err error) {
	return s.conn.Trim(ctx, wire.StreamInbox, upTo)
}

// setInbox makes the inbox capture subjects. Notifications it captures always, as a
// stream cannot be without a subject.
func (s *Sources) setInbox(ctx context.Context, subjects []string) error {
	union := wire.Union(append([]string{wire.NotificationSubject}, subjects...))
	slices.Sort(union)
	return s.conn.EnsureStream(ctx, bus.StreamConfig{
		Name: wire.StreamInbox, Subjects: union, MaxBytes: inboxBytes, MaxConsumers: maxTriggers, Refuse: true, Replicas: s.cfg.Replicas,
	})
}

// ConsumerOf is the consumer by which a trigger of a function takes its messages.
func ConsumerOf(f wire.FunctionID, t functions.Trigger) bus.SourceConfig {
	c := bus.SourceConfig{Stream: wire.StreamInbox, Name: wire.TriggerConsumer(f, t.ID()), AckWait: AckWait, MaxHeld: MaxHeld}
	switch {
	case t.Queue != nil:
		if t.Queue.Stream != "" {
			c.Stream = t.Queue.Stream
		}
		if t.Queue.Subject != "" {
			c.Subjects = []string{t.Queue.Subject}
		}
		if t.Queue.Ordered { // the next one is not to be had before this one is accepted
			c.MaxHeld = 1
		}
	case t.Cron != nil:
		c.Stream, c.Subjects = wire.StreamSchedules, []string{wire.TickSubject(f, t.ID())}
	case t.Bucket != nil:
		c.Subjects = []string{wire.BucketSubject(t.Bucket.Bucket), wire.NotificationSubject}
	}
	return c
}

// Prepare makes all that a function's triggers listen to, and leaves what there is
// besides. Its errors are [*wire.Error]: invalid for a trigger that cannot be, with what
// to do about it, and unavailable.
func (s *Sources) Prepare(ctx context.Context, f wire.FunctionID, triggers []functions.Trigger) error {
	if len(triggers) == 0 {
		return nil
	}
	for _, t := range triggers {
		if t.Bucket != nil && t.Bucket.Bucket == s.cfg.OwnBucket {
			return wire.Errorf(wire.CodeInvalid, "bucket %s is where Dayfly keeps its own objects; watch another one", t.Bucket.Bucket)
		}
	}
	return unavailable(s.locked(ctx, func(ctx context.Context) error {
		if err := s.widenInbox(ctx, f, triggers); err != nil {
			return err
		}
		for _, t := range triggers {
			if err := s.add(ctx, f, t); err != nil {
				return err
			}
		}
		return nil
	}))
}

// unavailable gives an error without a code the code unavailable.
func unavailable(err error) error {
	if _, coded := errors.AsType[*wire.Error](err); coded || err == nil {
		return err
	}
	return wire.Errorf(wire.CodeUnavailable, "the triggers could not be set up: %s", err)
}

// widenInbox makes the inbox capture what triggers want of it, too.
func (s *Sources) widenInbox(ctx context.Context, f wire.FunctionID, triggers []functions.Trigger) error {
	has, err := s.conn.StreamSubjects(ctx, wire.StreamInbox)
	if err != nil {
		return err
	}
	var wants []string
	for _, t := range triggers {
		consumer := ConsumerOf(f, t)
		if consumer.Stream != wire.StreamInbox {
			continue
		}
		for _, subject := range consumer.Subjects {
			if !covered(has, subject) {
				wants = append(wants, subject)
			}
		}
	}
	if len(wants) == 0 {
		return nil
	}
	union := wire.Union(append(slices.Clone(has), wants...))
	for _, subject := range union {
		if !slices.Contains(has, subject) {
			if err := s.refuseTaken(ctx, subject); err != nil {
				return err
			}
		}
	}
	return s.setInbox(ctx, union)
}

// covered reports whether one of the filters covers a subject.
func covered(filters []string, subject string) bool {
	return slices.ContainsFunc(filters, func(filter string) bool { return wire.Covers(filter, subject) })
}

// refuseTaken fails when a stream of somebody else's captures a subject.
func (s *Sources) refuseTaken(ctx context.Context, subject string) error {
	streams, err := s.conn.StreamsOn(ctx, subject)
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if stream != wire.StreamInbox {
			return wire.Errorf(wire.CodeInvalid,
				"the subject %s is captured by the JetStream stream %s already; listen to that one, as in queue: {stream: %s, subject: %q}",
				subject, stream, stream, subject)
		}
	}
	return nil
}

// add makes what one trigger needs besides the inbox's subjects.
func (s *Sources) add(ctx context.Context, f wire.FunctionID, t functions.Trigger) error {
	consumer := ConsumerOf(f, t)
	err := s.conn.EnsureSource(ctx, consumer)
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return wire.Errorf(wire.CodeInvalid, "there is no JetStream stream %s; create it first, or leave the stream out to have Dayfly keep the messages", consumer.Stream)
	case errors.Is(err, bus.ErrConflict):
		return wire.Errorf(wire.CodeInvalid, "the stream %s is a work queue, and another consumer takes these messages: %s", consumer.Stream, err)
	case err != nil:
		return err
	}
	switch {
	case t.Cron != nil:
		return s.addSchedule(ctx, f, t)
	case t.Bucket != nil && s.cfg.EnsureBucket != nil:
		if err := s.cfg.EnsureBucket(ctx, t.Bucket.Bucket); err != nil {
			return fmt.Errorf("bucket %s: %w", t.Bucket.Bucket, err)
		}
	}
	return nil
}

func (s *Sources) addSchedule(ctx context.Context, f wire.FunctionID, t functions.Trigger) error {
	schedule, err := functions.ParseSchedule(t.Cron.Schedule, t.Cron.Timezone)
	if err != nil { // this machine may lack a zone that another one knew
		return wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return s.conn.EnsureSchedule(ctx, wire.StreamSchedules, wire.ScheduleSubject(f, t.ID()), bus.Schedule{
		Fields: schedule.Fields(), Zone: t.Cron.Timezone, Target: wire.TickSubject(f, t.ID()), TTL: TickTTL,
	})
}

// Prune removes what a function's triggers listened to and these do not.
func (s *Sources) Prune(ctx context.Context, f wire.FunctionID, triggers []functions.Trigger) error {
	keep := map[string]bool{}
	for _, t := range triggers {
		keep[wire.TriggerConsumer(f, t.ID())] = true
	}
	return unavailable(s.locked(ctx, func(ctx context.Context) error {
		return s.clear(ctx, func(source bus.Source) bool {
			return keep[source.Name] || !strings.HasPrefix(source.Name, wire.FunctionTriggerConsumers(f))
		})
	}))
}

// Reconcile makes what the triggers of all functions need and lacks, and removes what
// none needs. A trigger that cannot be mended does not keep the others from it; the
// error tells of all such.
func (s *Sources) Reconcile(ctx context.Context, live []functions.Version) error {
	return unavailable(s.locked(ctx, func(ctx context.Context) error {
		whole, err := s.whole(ctx)
		if err != nil {
			return err
		}
		wanted, errs := map[string]bool{}, []error{}
		for _, v := range live {
			for _, t := range v.Spec.Triggers {
				wanted[wire.TriggerConsumer(v.FunctionID, t.ID())] = true
				if whole(v.FunctionID, t) {
					continue
				}
				err := s.widenInbox(ctx, v.FunctionID, []functions.Trigger{t})
				if err == nil {
					err = s.add(ctx, v.FunctionID, t)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("a trigger of %s: %w", v.FunctionID, err))
				}
			}
		}
		errs = append(errs, s.clear(ctx, func(source bus.Source) bool {
			return wanted[source.Name] || time.Since(source.MadeAt) < settleAfter
		}))
		return errors.Join(errs...)
	}))
}

// whole tells of triggers that lack nothing, with a few questions for all of them.
func (s *Sources) whole(ctx context.Context) (func(wire.FunctionID, functions.Trigger) bool, error) {
	sources, err := s.conn.Sources(ctx, wire.TriggerConsumers)
	if err != nil {
		return nil, err
	}
	inbox, err := s.conn.StreamSubjects(ctx, wire.StreamInbox)
	if err != nil {
		return nil, err
	}
	schedules, err := s.conn.Subjects(ctx, wire.StreamSchedules, wire.AllSchedules)
	if err != nil {
		return nil, err
	}
	return func(f wire.FunctionID, t functions.Trigger) bool {
		want := ConsumerOf(f, t)
		missed := func(subject string) bool { return !covered(inbox, subject) }
		if want.Stream == wire.StreamInbox && slices.ContainsFunc(want.Subjects, missed) {
			return false
		}
		if t.Cron != nil && !slices.Contains(schedules, wire.ScheduleSubject(f, t.ID())) {
			return false
		}
		return slices.ContainsFunc(sources, func(is bus.Source) bool {
			return is.Stream == want.Stream && is.Name == want.Name && is.MaxHeld == want.MaxHeld && slices.Equal(is.Subjects, want.Subjects)
		})
	}, nil
}

// clear removes the consumers of triggers but for those to keep, and then what only they
// needed.
func (s *Sources) clear(ctx context.Context, keep func(bus.Source) bool) error {
	sources, err := s.conn.Sources(ctx, wire.TriggerConsumers)
	if err != nil {
		return err
	}
	kept, inbox := map[string]bool{}, []string{}
	for _, source := range sources {
		if !keep(source) {
			if err := s.conn.RemoveSource(ctx, source.Stream, source.Name); err != nil {
				return err
			}
			s.log.Info("trigger removed", "consumer", source.Name, "stream", source.Stream)
			continue
		}
		kept[source.Name] = true
		if source.Stream == wire.StreamInbox {
			inbox = append(inbox, source.Subjects...)
		}
	}
	return errors.Join(s.clearSchedules(ctx, kept), s.setInbox(ctx, inbox))
}

// clearSchedules removes the schedules, and their ticks, whose consumers are gone.
func (s *Sources) clearSchedules(ctx context.Context, kept map[string]bool) error {
	for _, filter := range []string{wire.AllSchedules, wire.AllTicks} {
		subjects, err := s.conn.Subjects(ctx, wire.StreamSchedules, filter)
		if err != nil {
			return err
		}
		for _, subject := range subjects {
			parts := strings.Split(subject, ".")
			f := wire.FunctionID{Namespace: parts[2], Name: parts[3]}
			if kept[wire.TriggerConsumer(f, wire.TriggerID(parts[4]))] {
				continue
			}
			if err := s.conn.Purge(ctx, wire.StreamSchedules, subject); err != nil {
				return err
			}
		}
	}
	return nil
}
