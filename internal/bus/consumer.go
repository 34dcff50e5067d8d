package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ConsumerConfig describes a durable consumer: a place in a stream that workers share.
type ConsumerConfig struct {
	Stream, Name string
	// Subject is what it wants of the stream.
	Subject string
	// AckWait is how long a message may be held in silence before it is given out again.
	AckWait time.Duration
	// MaxHeld bounds the messages that are given out and not acknowledged.
	MaxHeld int
}

// EnsureConsumer makes the consumer or brings its limits up to date.
func (c *Conn) EnsureConsumer(ctx context.Context, cfg ConsumerConfig) error {
	_, err := c.js.CreateOrUpdateConsumer(ctx, cfg.Stream, jetstream.ConsumerConfig{
		Durable: cfg.Name, FilterSubject: cfg.Subject, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: cfg.AckWait, MaxAckPending: cfg.MaxHeld, MaxDeliver: -1,
	})
	if err != nil {
		return fmt.Errorf("create consumer %s of %s: %w", cfg.Name, cfg.Stream, err)
	}
	return nil
}

// Consumers calls visit for the name of each consumer of a stream.
func (c *Conn) Consumers(ctx context.Context, stream string, visit func(name string)) error {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", stream, err)
	}
	names := s.ConsumerNames(ctx)
	for name := range names.Name() {
		visit(name)
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("list consumers of %s: %w", stream, err)
	}
	return nil
}

// DropConsumer removes a consumer that has nothing to give out and nothing given out,
// and reports whether it did. One that is not there is no error.
func (c *Conn) DropConsumer(ctx context.Context, stream, name string) (bool, error) {
	consumer, err := c.js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at consumer %s: %w", name, err)
	}
	if info := consumer.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
		return false, nil
	}
	if err := c.js.DeleteConsumer(ctx, stream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, fmt.Errorf("remove consumer %s: %w", name, err)
	}
	return true, nil
}

// Consumer gives out a durable consumer's messages. It is safe for concurrent use.
type Consumer struct {
	consumer jetstream.Consumer
	name     string
}

// Consumer opens a durable consumer, or fails with [ErrNotFound].
func (c *Conn) Consumer(ctx context.Context, stream, name string) (*Consumer, error) {
	consumer, err := c.js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open consumer %s: %w", name, err)
	}
	return &Consumer{consumer: consumer, name: name}, nil
}

// Fetch calls handle for up to n messages, one at a time and as they come, until ctx is
// done or, after wait, none came. A message that is not acknowledged is given out again.
// It fails with [ErrNotFound] when the consumer is gone.
func (c *Consumer) Fetch(ctx context.Context, n int, wait time.Duration, handle func(Delivery)) error {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	batch, err := c.consumer.Fetch(n, jetstream.FetchContext(bounded))
	if err != nil {
		return fmt.Errorf("fetch from %s: %w", c.name, err)
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("fetch from %s: %w", c.name, err)
		}
		handle(Delivery{
			Subject: msg.Subject(), Data: msg.Data(), Sequence: meta.Sequence.Stream, StoredAt: meta.Timestamp,
			Count: meta.NumDelivered, msg: msg,
		})
	}
	switch err := batch.Error(); {
	case err == nil, bounded.Err() != nil, errors.Is(err, jetstream.ErrNoMessages):
		return nil
	case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound):
		return fmt.Errorf("fetch from %s: %w", c.name, ErrNotFound)
	default:
		return fmt.Errorf("fetch from %s: %w", c.name, err)
	}
}

// Delivery is a message that a consumer gave out. Its methods may be called by any
// goroutine.
type Delivery struct {
	Subject  string
	Data     []byte
	Sequence uint64
	StoredAt time.Time
	// Count is how often it was given out, this time included, as far as is known.
	Count uint64
	msg   jetstream.Msg
}

// Ack says that the message is done with, and waits until the server knows.
func (d Delivery) Ack(ctx context.Context) error {
	if err := d.msg.DoubleAck(ctx); err != nil {
		return fmt.Errorf("acknowledge %s: %w", d.Subject, err)
	}
	return nil
}

// Again asks for the message to be given out again, after a while. It does not wait:
// what gets lost is given out again in any case.
func (d Delivery) Again(after time.Duration) error { return d.msg.NakWithDelay(after) }

// Hold says that the message is still being worked on. It does not wait.
func (d Delivery) Hold() error { return d.msg.InProgress() }
