package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StreamConfig describes a bounded stream; the oldest messages make room, unless it
// refuses new ones.
type StreamConfig struct {
	Name     string
	Subjects []string
	MaxAge   time.Duration
	MaxBytes int64
	// MaxPerSubject bounds the messages of one subject; zero for no bound.
	MaxPerSubject int64
	// Queue keeps a message until a consumer acknowledges it; no two consumers may
	// want the same one.
	Queue bool
	// MaxConsumers bounds its consumers; zero for what the server takes by itself, which
	// is 1,000.
	MaxConsumers int
	// Schedules lets the stream publish to itself at times that a message says, see
	// [Conn.Schedule].
	Schedules bool
	// Refuse makes a full stream, or subject, refuse new messages.
	Refuse bool
	// Batches lets a [Committer] write here.
	Batches bool
	// Duplicates is how long a message's ID is remembered; zero for two minutes.
	Duplicates time.Duration
	// Async lets the server acknowledge before the disk has the message: for
	// logs and the like, whose loss in a power cut is bearable.
	Async bool
	// Replicas is how many servers keep it; 0 for the connection's own number.
	Replicas int
}

// EnsureStream creates the stream or brings its limits up to date.
func (c *Conn) EnsureStream(ctx context.Context, cfg StreamConfig) error {
	want := jetstream.StreamConfig{
		Name: cfg.Name, Subjects: cfg.Subjects, MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes,
		MaxMsgsPerSubject: cfg.MaxPerSubject, Discard: jetstream.DiscardOld,
		Storage: jetstream.FileStorage, Replicas: cmp.Or(cfg.Replicas, c.replicas), AllowDirect: true,
		AllowAtomicPublish: cfg.Batches, Duplicates: cfg.Duplicates, MaxConsumers: cfg.MaxConsumers,
	}
	if cfg.Queue {
		want.Retention = jetstream.WorkQueuePolicy
	}
	if cfg.Schedules {
		want.AllowMsgSchedules, want.AllowMsgTTL, want.AllowRollup = true, true, true
	}
	if cfg.Refuse {
		want.Discard, want.DiscardNewPerSubject = jetstream.DiscardNew, cfg.Queue && cfg.MaxPerSubject > 0
	}
	if cfg.Async && want.Replicas == 1 { // the server refuses it where others have a copy
		want.PersistMode = jetstream.AsyncPersistMode
	}
	err := c.placed(ctx, func(ctx context.Context) error {
		_, err := c.js.CreateOrUpdateStream(ctx, want)
		return err
	})
	if err != nil {
		return fmt.Errorf("create stream %s: %w", cfg.Name, err)
	}
	return nil
}

// PublishStored publishes to a stream and waits until the stream has the message.
func (c *Conn) PublishStored(ctx context.Context, subject string, data []byte) error {
	_, err := c.Store(ctx, Message{Subject: subject, Data: data})
	return err
}

// StoredMessage is a message in a stream.
type StoredMessage struct {
	Subject  string
	Sequence uint64
	StoredAt time.Time
	Data     []byte
}

// Last returns what the newest message of a subject says, see [Conn.LastMessage].
func (c *Conn) Last(ctx context.Context, stream, subject string) ([]byte, error) {
	m, err := c.LastMessage(ctx, stream, subject)
	return m.Data, err
}

// LastMessage returns the newest message of a subject, which may have wildcards, in a
// stream, or [ErrNotFound].
func (c *Conn) LastMessage(ctx context.Context, stream, subject string) (StoredMessage, error) {
	return c.readMessage(ctx, stream, subject, map[string]any{"last_by_subj": subject})
}

// nextMessage returns the first message of a subject at a sequence or after it, or
// [ErrNotFound].
func (c *Conn) nextMessage(ctx context.Context, stream, subject string, from uint64) (StoredMessage, error) {
	return c.readMessage(ctx, stream, subject, map[string]any{"next_by_subj": subject, "seq": from})
}

func (c *Conn) readMessage(ctx context.Context, stream, subject string, which map[string]any) (StoredMessage, error) {
	question, err := json.Marshal(which)
	if err != nil {
		return StoredMessage{}, fmt.Errorf("read %s: %w", subject, err)
	}
	answer, err := c.query(ctx, &nats.Msg{Subject: "$JS.API.DIRECT.GET." + stream, Data: question})
	if err != nil {
		return StoredMessage{}, fmt.Errorf("read %s of %s: %w", subject, stream, err)
	}
	switch status := answer.Header.Get("Status"); status {
	case "":
	case "404":
		return StoredMessage{}, fmt.Errorf("read %s of %s: %w", subject, stream, ErrNotFound)
	default:
		return StoredMessage{}, fmt.Errorf("read %s of %s: %s %s", subject, stream, status, answer.Header.Get("Description"))
	}
	m := StoredMessage{Subject: answer.Header.Get(jetstream.SubjectHeader), Data: answer.Data}
	if m.Sequence, err = strconv.ParseUint(answer.Header.Get(jetstream.SequenceHeader), 10, 64); err == nil {
		m.StoredAt, err = time.Parse(time.RFC3339Nano, answer.Header.Get(jetstream.TimeStampHeaer))
	}
	if err != nil {
		return StoredMessage{}, fmt.Errorf("read %s of %s: %w", subject, stream, err)
	}
	return m, nil
}

// Discard removes one message from a stream; one that is not there is no error.
func (c *Conn) Discard(ctx context.Context, stream string, sequence uint64) error {
	// The client hides the code that tells a message which is not there from a failure.
	question := fmt.Sprintf(`{"seq":%d,"no_erase":true}`, sequence)
	data, err := c.request(ctx, &nats.Msg{Subject: "$JS.API.STREAM.MSG.DELETE." + stream, Data: []byte(question)})
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(data.Data, &answer)
	}
	if err == nil && answer.Error != nil && answer.Error.ErrorCode != noMessage {
		err = answer.Error
	}
	if err != nil {
		return fmt.Errorf("remove message %d of %s: %w", sequence, stream, err)
	}
	return nil
}

// noMessage is JetStream's code for a message to remove that is not there.
const noMessage = 10057

// Purge removes all messages of a subject, which may have wildcards, from a stream.
func (c *Conn) Purge(ctx context.Context, stream, subject string) error {
	s, err := c.stream(ctx, stream)
	if err == nil {
		err = c.ask(ctx, listBound, func(ctx context.Context) error { return s.Purge(ctx, jetstream.WithPurgeSubject(subject)) })
	}
	if err != nil {
		return fmt.Errorf("empty %s of %s: %w", subject, stream, err)
	}
	return nil
}

// ReadOptions says what to read of a stream.
type ReadOptions struct {
	Stream, Subject string
	// Tail is how many messages of the past to give, the newest ones.
	Tail int
	// Since, if set, leaves out what is older.
	Since time.Time
	// After, if set, begins behind the message with that number; Tail and Since say
	// nothing then.
	After uint64
	// Follow goes on with messages that come, instead of ending after those that
	// were there.
	Follow bool
}

// StreamMsg is a message of a stream.
type StreamMsg struct {
	// Sequence is its number in the stream.
	Sequence uint64
	Data     []byte
	// Left is how many of those that were there when reading began are still to come; 0
	// for those that came later.
	Left uint64
}

const (
	// readIdle is how long a consumer outlives a reader that did not say goodbye.
	readIdle = 30 * time.Second
	// readPatience is how long a message that is there may take to come.
	readPatience = 5 * time.Second
	// tailWindow is how far back, in messages of any subject for each that is
	// wanted, the tail is looked for first; tailGrowth how much further each time.
	tailWindow, tailGrowth = 8, 16
)

// Read calls handle for the messages of a subject, oldest first; their data is handle's
// to keep. With Follow it goes on until ctx is done and returns nil then. An error
// of handle ends it and is returned.
func (c *Conn) Read(ctx context.Context, opts ReadOptions, handle func(StreamMsg) error) error {
	s, err := c.stream(ctx, opts.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", opts.Stream, err)
	}
	consumer, err := c.openTail(ctx, s, opts)
	if err != nil {
		return fmt.Errorf("read %s: %w", opts.Subject, err)
	}
	defer func() { discard(ctx, s, consumer) }()
	pending := consumer.CachedInfo().NumPending
	if pending == 0 && !opts.Follow {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", opts.Subject, err)
	}
	defer messages.Stop()
	skip := pending - min(pending, uint64(max(opts.Tail, 0)))
	if opts.After > 0 {
		skip = 0
	}
	for past := pending > 0; ; {
		msg, err := next(ctx, messages, opts.Follow)
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
		stored := StreamMsg{Sequence: meta.Sequence.Stream, Data: msg.Data()}
		if past {
			stored.Left = meta.NumPending
			past = stored.Left > 0
		}
		if skip > 0 {
			skip--
		} else if err := handle(stored); err != nil {
			return err
		}
		if !past && !opts.Follow {
			return nil
		}
	}
}

// openTail opens a consumer from a place with at least the tail, or all there is,
// before the stream's end. It looks further and further back, so that a short tail
// of a long stream costs no more than a few questions.
func (c *Conn) openTail(ctx context.Context, s jetstream.Stream, opts ReadOptions) (jetstream.Consumer, error) {
	state := s.CachedInfo().State
	from := jetstream.OrderedConsumerConfig{FilterSubjects: []string{opts.Subject}, InactiveThreshold: readIdle}
	switch {
	case opts.After > 0:
		from.DeliverPolicy, from.OptStartSeq = jetstream.DeliverByStartSequencePolicy, opts.After+1
		return c.ordered(ctx, s, from)
	case !opts.Since.IsZero():
		from.DeliverPolicy, from.OptStartTime = jetstream.DeliverByStartTimePolicy, &opts.Since
		return c.ordered(ctx, s, from)
	}
	for window := uint64(max(opts.Tail, 1)) * tailWindow; ; window *= tailGrowth {
		cfg := from
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, max(state.FirstSeq, 1)
		whole := state.LastSeq < window || state.LastSeq-window < state.FirstSeq
		if !whole {
			cfg.OptStartSeq = state.LastSeq - window + 1
		}
		consumer, err := c.ordered(ctx, s, cfg)
		if err != nil {
			return nil, err
		}
		if whole || consumer.CachedInfo().NumPending >= uint64(max(opts.Tail, 0)) {
			return consumer, nil
		}
		discard(ctx, s, consumer)
	}
}

func (c *Conn) ordered(ctx context.Context, s jetstream.Stream, cfg jetstream.OrderedConsumerConfig) (consumer jetstream.Consumer, err error) {
	err = c.ask(ctx, askBound, func(ctx context.Context) error {
		consumer, err = s.OrderedConsumer(ctx, cfg)
		return err
	})
	return consumer, err
}

// discard removes a consumer now rather than when it has been idle for a while.
func discard(ctx context.Context, s jetstream.Stream, consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// The server removes it in any case, a little later.
	_ = s.DeleteConsumer(ctx, consumer.CachedInfo().Name)
}

// next waits for a message: for ever when following, else no longer than one that
// is there may take. It may be gone, if the stream's limits were quicker.
func next(ctx context.Context, messages jetstream.MessagesContext, follow bool) (jetstream.Msg, error) {
	if !follow {
		bounded, cancel := context.WithTimeout(ctx, readPatience)
		defer cancel()
		ctx = bounded
	}
	return messages.Next(jetstream.NextContext(ctx))
}
