package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// StreamConfig describes a bounded stream; the oldest messages make room.
type StreamConfig struct {
	Name     string
	Subjects []string
	MaxAge   time.Duration
	MaxBytes int64
	// MaxPerSubject bounds the messages of one subject; zero for no bound.
	MaxPerSubject int64
	// Async lets the server acknowledge before the disk has the message: for
	// logs and the like, whose loss in a power cut is bearable.
	Async    bool
	Replicas int
}

// EnsureStream creates the stream or brings its limits up to date.
func (c *Conn) EnsureStream(ctx context.Context, cfg StreamConfig) error {
	want := jetstream.StreamConfig{
		Name: cfg.Name, Subjects: cfg.Subjects, MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes,
		MaxMsgsPerSubject: cfg.MaxPerSubject, Discard: jetstream.DiscardOld,
		Storage: jetstream.FileStorage, Replicas: max(cfg.Replicas, 1), AllowDirect: true,
	}
	if cfg.Async {
		want.PersistMode = jetstream.AsyncPersistMode
	}
	if _, err := c.js.CreateOrUpdateStream(ctx, want); err != nil {
		return fmt.Errorf("create stream %s: %w", cfg.Name, err)
	}
	return nil
}

// PublishStored publishes to a stream and waits until the stream has the message.
func (c *Conn) PublishStored(ctx context.Context, subject string, data []byte) error {
	if _, err := c.js.Publish(ctx, subject, data); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	return nil
}

// Last returns the newest message of a subject in a stream, or [ErrNotFound].
func (c *Conn) Last(ctx context.Context, stream, subject string) ([]byte, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", stream, err)
	}
	msg, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return msg.Data, nil
}

// ReadOptions says what to read of a stream.
type ReadOptions struct {
	Stream, Subject string
	// After leaves out messages up to this sequence.
	After uint64
	// Follow goes on with messages that come, instead of ending after those that
	// were there.
	Follow bool
}

// Read calls handle for messages, oldest first, with their sequence in the stream.
// With Follow it goes on until ctx is done and returns nil then. An error of handle
// ends it and is returned.
func (c *Conn) Read(ctx context.Context, opts ReadOptions, handle func(seq uint64, data []byte) error) error {
	s, err := c.js.Stream(ctx, opts.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", opts.Stream, err)
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{opts.Subject}}
	if opts.After > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, opts.After+1
	}
	consumer, err := s.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("read %s: %w", opts.Subject, err)
	}
	if consumer.CachedInfo().NumPending == 0 && !opts.Follow {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", opts.Subject, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if opts.Follow && ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read %s: %w", opts.Subject, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", opts.Subject, err)
		}
		if err := handle(meta.Sequence.Stream, msg.Data()); err != nil {
			return err
		}
		if !opts.Follow && meta.NumPending == 0 {
			return nil
		}
	}
}
