package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SourceConfig describes a consumer by which somebody listens to a stream, be it one of
// Dayfly's or a user's own.
type SourceConfig struct {
	Stream, Name string
	// Subjects are what it wants of the stream; none for all of it.
	Subjects []string
	// AckWait is how long a message may be held in silence before it is given out again.
	AckWait time.Duration
	// MaxHeld bounds the messages that are given out and not acknowledged.
	MaxHeld int
}

// EnsureSource makes the consumer or brings it up to date. A new one begins with what
// comes from now on; only that of a work queue, whose messages are there to be taken,
// begins with the first one. It fails with [ErrNotFound] when there is no such stream,
// and with [ErrConflict] when the stream gives the messages to another consumer.
func (c *Conn) EnsureSource(ctx context.Context, cfg SourceConfig) error {
	err := c.ensureSource(ctx, cfg)
	if err == nil {
		return nil
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = ErrNotFound
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && strings.Contains(api.Description, "workqueue") {
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return fmt.Errorf("create consumer %s of %s: %w", cfg.Name, cfg.Stream, err)
}

func (c *Conn) ensureSource(ctx context.Context, cfg SourceConfig) error {
	s, err := c.stream(ctx, cfg.Stream)
	if err != nil {
		return err
	}
	want := jetstream.ConsumerConfig{
		Durable: cfg.Name, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy,
		AckWait: cfg.AckWait, MaxAckPending: cfg.MaxHeld, MaxDeliver: -1,
	}
	if s.CachedInfo().Config.Retention == jetstream.WorkQueuePolicy {
		want.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	switch len(cfg.Subjects) {
	case 0:
	case 1:
		want.FilterSubject = cfg.Subjects[0]
	default:
		want.FilterSubjects = cfg.Subjects
	}
	return c.ask(ctx, askBound, func(ctx context.Context) error {
		_, err := s.CreateOrUpdateConsumer(ctx, want)
		return err
	})
}

// Source is a consumer that was made by [Conn.EnsureSource].
type Source struct {
	Stream, Name string
	Subjects     []string
	MaxHeld      int
	MadeAt       time.Time
}

// Sources lists the consumers of every stream whose names begin so.
func (c *Conn) Sources(ctx context.Context, prefix string) ([]Source, error) {
	streams, err := c.streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	var found []Source
	for _, stream := range streams {
		s, err := c.stream(ctx, stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // it went just now
		}
		if err != nil {
			return nil, fmt.Errorf("open stream %s: %w", stream, err)
		}
		consumers, err := c.consumers(ctx, s)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, fmt.Errorf("list consumers of %s: %w", stream, err)
		}
		for _, info := range consumers {
			if !strings.HasPrefix(info.Name, prefix) {
				continue
			}
			source := Source{Stream: stream, Name: info.Name, Subjects: info.Config.FilterSubjects, MaxHeld: info.Config.MaxAckPending, MadeAt: info.Created}
			if info.Config.FilterSubject != "" {
				source.Subjects = []string{info.Config.FilterSubject}
			}
			found = append(found, source)
		}
	}
	return found, nil
}

// streams lists the names of streams.
func (c *Conn) streams(ctx context.Context, which ...jetstream.StreamListOpt) (found []string, err error) {
	err = c.ask(ctx, listBound, func(ctx context.Context) error {
		names := c.js.StreamNames(ctx, which...)
		for name := range names.Name() {
			found = append(found, name)
		}
		return names.Err()
	})
	return found, err
}

// consumers lists what a stream's consumers are and where they stand.
func (c *Conn) consumers(ctx context.Context, s jetstream.Stream) (found []*jetstream.ConsumerInfo, err error) {
	err = c.ask(ctx, listBound, func(ctx context.Context) error {
		infos := s.ListConsumers(ctx)
		for info := range infos.Info() {
			found = append(found, info)
		}
		return infos.Err()
	})
	return found, err
}

// RemoveSource removes a consumer with whatever it has not given out. One that is not
// there is no error.
func (c *Conn) RemoveSource(ctx context.Context, stream, name string) error {
	err := c.ask(ctx, askBound, func(ctx context.Context) error { return c.js.DeleteConsumer(ctx, stream, name) })
	if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return fmt.Errorf("remove consumer %s of %s: %w", name, stream, err)
}

// Trim removes the messages of a stream, up to a sequence, that all of its consumers are
// done with, and those that none wants. A stream that does so by itself, by interest,
// writes to disk for every message; this does so once for all. It returns the stream's
// last sequence, for the next time: a consumer counts a message a little after the stream
// has it, and until then looks as if it were done.
func (c *Conn) Trim(ctx context.Context, stream string, upTo uint64) (last uint64, err error) {
	s, err := c.stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("open stream %s: %w", stream, err)
	}
	state := s.CachedInfo().State
	done := min(upTo, state.LastSeq)
	if state.Msgs == 0 || done < state.FirstSeq {
		return state.LastSeq, nil
	}
	consumers, err := c.consumers(ctx, s)
	if err != nil {
		return 0, fmt.Errorf("list consumers of %s: %w", stream, err)
	}
	for _, info := range consumers {
		if info.NumPending > 0 || info.NumAckPending > 0 {
			done = min(done, info.AckFloor.Stream)
		}
	}
	if done < state.FirstSeq {
		return state.LastSeq, nil
	}
	if err := c.ask(ctx, askBound, func(ctx context.Context) error {
		return s.Purge(ctx, jetstream.WithPurgeSequence(done+1))
	}); err != nil {
		return 0, fmt.Errorf("trim %s: %w", stream, err)
	}
	return state.LastSeq, nil
}

// StreamSubjects says what a stream captures. It fails with [ErrNotFound] when there is
// no such stream.
func (c *Conn) StreamSubjects(ctx context.Context, name string) ([]string, error) {
	s, err := c.stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	return s.CachedInfo().Config.Subjects, nil
}

// StreamsOn names the streams that capture something of a subject, which may have
// wildcards.
func (c *Conn) StreamsOn(ctx context.Context, subject string) ([]string, error) {
	found, err := c.streams(ctx, jetstream.WithStreamListSubject(subject))
	if err != nil {
		return nil, fmt.Errorf("find the streams on %s: %w", subject, err)
	}
	return found, nil
}

// Headers returns the message's headers; they must not be changed.
func (d Delivery) Headers() map[string][]string { return d.header }

// FetchReady is [Consumer.Fetch] for those messages that are there, without a wait for
// more.
func (c *Consumer) FetchReady(ctx context.Context, n int, handle func(Delivery)) error {
	return c.fetch(ctx, n, readyBound, fmt.Sprintf(`{"batch":%d,"no_wait":true}`, n), handle)
}

// readyBound is how long the server may take to say that no message is there.
const readyBound = 5 * time.Second

// Outgoing is a message with headers, for whoever listens to a subject.
type Outgoing struct {
	Subject string
	// ID lets the stream drop a repeat within its window; empty for none.
	ID      string
	Headers map[string]string
	Data    []byte
}

// Send puts a message into the stream that captures its subject, and names that. It
// fails with [ErrNoResponders] when none does, and with [ErrFull].
func (c *Conn) Send(ctx context.Context, m Outgoing) (stream string, err error) {
	msg := nats.NewMsg(m.Subject)
	msg.Data = m.Data
	for name, value := range m.Headers {
		msg.Header[name] = []string{value} // NATS keeps the spelling
	}
	if m.ID != "" {
		msg.Header.Set(jetstream.MsgIDHeader, m.ID)
	}
	err = c.ask(ctx, storeBound, func(ctx context.Context) error {
		answer, err := c.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
		if err == nil {
			stream = answer.Stream
		}
		return err
	})
	if err == nil {
		return stream, nil
	}
	api, refused := errors.AsType[*jetstream.APIError](err)
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		err = ErrNoResponders
	case refused && strings.Contains(api.Description, "maximum"):
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	return "", fmt.Errorf("send to %s: %w", m.Subject, err)
}

// Headers by which JetStream's schedules work.
const (
	headerSchedule     = "Nats-Schedule"
	headerScheduleZone = "Nats-Schedule-Time-Zone"
	headerScheduleTo   = "Nats-Schedule-Target"
	headerScheduleTTL  = "Nats-Schedule-TTL"
	headerScheduleNext = "Nats-Schedule-Next"
)

// Schedule says when a stream publishes to itself.
type Schedule struct {
	// Fields are six cron fields, seconds first, in the time of Zone.
	Fields, Zone string
	// Target is where it publishes; the stream must capture it.
	Target string
	// TTL is how long what it publishes stays.
	TTL time.Duration
}

// EnsureSchedule keeps a schedule under a subject of a stream with schedules, and
// replaces one that says something else. One that says the same is left as it is, so
// that no tick is lost or comes twice.
func (c *Conn) EnsureSchedule(ctx context.Context, stream, subject string, s Schedule) error {
	headers := map[string]string{
		headerSchedule: s.Fields, headerScheduleZone: s.Zone, headerScheduleTo: s.Target, headerScheduleTTL: s.TTL.String(),
	}
	opened, err := c.stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", stream, err)
	}
	var last *jetstream.RawStreamMsg
	err = c.ask(ctx, askBound, func(ctx context.Context) error {
		last, err = opened.GetLastMsgForSubject(ctx, subject)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return fmt.Errorf("read %s: %w", subject, err)
	default:
		is := map[string]string{}
		for name := range headers {
			is[name] = last.Header.Get(name)
		}
		if maps.Equal(is, headers) {
			return nil
		}
	}
	_, err = c.Send(ctx, Outgoing{Subject: subject, Headers: headers})
	return err
}

// ScheduleNext is when the schedule that published a message does so next; ok is false
// for other messages.
func (d Delivery) ScheduleNext() (next time.Time, ok bool) {
	next, err := time.Parse(time.RFC3339Nano, d.header.Get(headerScheduleNext))
	return next, err == nil
}

// Subjects lists the subjects of a stream that have messages and match a filter.
func (c *Conn) Subjects(ctx context.Context, stream, filter string) ([]string, error) {
	s, err := c.stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", stream, err)
	}
	var info *jetstream.StreamInfo
	err = c.ask(ctx, listBound, func(ctx context.Context) error {
		info, err = s.Info(ctx, jetstream.WithSubjectFilter(filter))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list subjects of %s: %w", stream, err)
	}
	return slices.Sorted(maps.Keys(info.State.Subjects)), nil
}
