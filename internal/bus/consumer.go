package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
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
	err := c.again(ctx, func(ctx context.Context) error {
		_, err := c.js.CreateOrUpdateConsumer(ctx, cfg.Stream, jetstream.ConsumerConfig{
			Durable: cfg.Name, FilterSubject: cfg.Subject, AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: cfg.AckWait, MaxAckPending: cfg.MaxHeld, MaxDeliver: -1,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("create consumer %s of %s: %w", cfg.Name, cfg.Stream, err)
	}
	return nil
}

// Consumers calls visit for the name of each consumer of a stream.
func (c *Conn) Consumers(ctx context.Context, stream string, visit func(name string)) error {
	s, err := c.stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", stream, err)
	}
	if err := c.ask(ctx, listBound, func(ctx context.Context) error {
		names := s.ConsumerNames(ctx)
		for name := range names.Name() {
			visit(name)
		}
		return names.Err()
	}); err != nil {
		return fmt.Errorf("list consumers of %s: %w", stream, err)
	}
	return nil
}

// Backlog is what a durable consumer still has to do.
type Backlog struct {
	// Waiting counts the messages that it has not given out, Held those that are given out
	// and not acknowledged, or wait to be given out again.
	Waiting, Held uint64
}

// Passed calls visit for each message that a queue's consumer has acknowledged and that is
// in the stream nevertheless, where nobody gets it any more: a server that is killed may
// have some back. It tells what the consumer had to do before that. It fails with
// [ErrNotFound] when there is no such consumer.
func (c *Conn) Passed(ctx context.Context, stream, name string, visit func(StoredMessage) error) (Backlog, error) {
	consumer, err := c.consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return Backlog{}, fmt.Errorf("look at consumer %s: %w", name, err)
	}
	info := consumer.CachedInfo()
	backlog := Backlog{Waiting: info.NumPending, Held: uint64(max(0, info.NumAckPending))}
	for from := uint64(1); ; from++ {
		m, err := c.nextMessage(ctx, stream, info.Config.FilterSubject, from)
		if errors.Is(err, ErrNotFound) || err == nil && m.Sequence > info.AckFloor.Stream {
			return backlog, nil
		}
		if err == nil {
			err = visit(m)
		}
		if err != nil {
			return backlog, err
		}
		from = m.Sequence
	}
}

func (c *Conn) consumer(ctx context.Context, stream, name string) (consumer jetstream.Consumer, err error) {
	err = c.again(ctx, func(ctx context.Context) error {
		consumer, err = c.js.Consumer(ctx, stream, name)
		return err
	})
	return consumer, err
}

// Consumer gives out a durable consumer's messages. It is safe for concurrent use.
type Consumer struct {
	conn *Conn
	name string
	next string // where it is asked for messages
}

// Consumer opens a durable consumer, or fails with [ErrNotFound].
func (c *Conn) Consumer(ctx context.Context, stream, name string) (*Consumer, error) {
	_, err := c.consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open consumer %s: %w", name, err)
	}
	return c.ConsumerNamed(stream, name), nil
}

// ConsumerNamed is a durable consumer of which nobody has asked whether it is there; what
// is fetched from it says so.
func (c *Conn) ConsumerNamed(stream, name string) *Consumer {
	return &Consumer{conn: c, name: name, next: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + name}
}

// Fetch calls handle for up to n messages, one at a time and as they come, until ctx is
// done or wait is over. A message that is not acknowledged is given out again; one that
// comes when ctx is done is given back at once. It fails with [ErrNotFound] when the
// consumer is gone, and at once when the connection is lost.
func (c *Consumer) Fetch(ctx context.Context, n int, wait time.Duration, handle func(Delivery)) error {
	return c.fetch(ctx, n, wait+fetchGrace, fmt.Sprintf(`{"batch":%d,"expires":%d}`, n, wait.Nanoseconds()), handle)
}

func (c *Consumer) fetch(ctx context.Context, n int, bound time.Duration, question string, handle func(Delivery)) error {
	ctx, cancel := c.conn.untilLost(ctx)
	defer cancel()
	inbox := c.conn.nc.NewInbox()
	messages := make(chan *nats.Msg, n+1) // a status comes besides
	sub, err := c.conn.nc.ChanSubscribe(inbox, messages)
	open := true // the server may bring more
	if err == nil {
		defer func() { c.leave(sub, messages, open) }()
		err = c.conn.nc.PublishRequest(c.next, inbox, []byte(question))
	}
	if err != nil {
		return fmt.Errorf("fetch from %s: %w", c.name, err)
	}
	limit := time.NewTimer(bound)
	defer limit.Stop()
	for range n {
		select {
		case m := <-messages:
			if m.Header.Get("Status") != "" {
				open = false
				return c.status(m)
			}
			d, err := c.delivery(m)
			if err != nil {
				return fmt.Errorf("fetch from %s: %w", c.name, err)
			}
			if ctx.Err() != nil { // both were ready
				_ = d.Again(0) // it comes again in any case
				return fmt.Errorf("fetch from %s: %w", c.name, context.Cause(ctx))
			}
			handle(d)
		case <-limit.C: // the server should have said so
			return nil
		case <-ctx.Done():
			return fmt.Errorf("fetch from %s: %w", c.name, context.Cause(ctx))
		}
	}
	open = false
	return nil
}

const (
	// fetchGrace is how much later than it should the server may end a question.
	fetchGrace = time.Second
	// leaveBound limits telling the server that nobody waits any more. What comes after it
	// waits for the end of AckWait.
	leaveBound = 5 * time.Second
)

// leave ends a question and gives back what it brought too late. The server knows of the
// end before it gets these back, so that they do not come here again.
func (c *Consumer) leave(sub *nats.Subscription, messages <-chan *nats.Msg, open bool) {
	// Of a lost connection there is nothing left.
	if !open || sub.Drain() != nil || c.conn.nc.FlushTimeout(leaveBound) != nil {
		_ = sub.Unsubscribe()
	}
	for {
		select {
		case m := <-messages:
			if d, err := c.delivery(m); err == nil {
				_ = d.Again(0)
			}
		default:
			return
		}
	}
}

// status reads why a question brings no more.
func (c *Consumer) status(m *nats.Msg) error {
	status, text := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "404", status == "408", strings.EqualFold(text, "Batch Completed"):
		return nil
	case status == "503", strings.EqualFold(text, "Consumer Deleted"):
		return fmt.Errorf("fetch from %s: %w", c.name, ErrNotFound)
	}
	return fmt.Errorf("fetch from %s: %s %s", c.name, status, text)
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

	conn   *Conn
	header nats.Header
	reply  string
}

// delivery makes a message that a consumer gave out.
func (c *Consumer) delivery(m *nats.Msg) (Delivery, error) {
	meta, err := readMeta(m)
	if err != nil {
		return Delivery{}, err
	}
	return Delivery{
		Subject: m.Subject, Data: m.Data, Sequence: meta.sequence, StoredAt: meta.at, Count: meta.count,
		conn: c.conn, header: m.Header, reply: m.Reply,
	}, nil
}

// meta is what a message of a stream says of itself.
type meta struct {
	// count is how often it was given out.
	count uint64
	// sequence is its place in the stream, consumerSequence in what the consumer gave out.
	sequence, consumerSequence uint64
	at                         time.Time
	// pending is how many more the consumer has.
	pending uint64
}

// readMeta reads the reply subject of a message that a consumer gave out:
// $JS.ACK.[domain.account.]stream.consumer.count.sequence.consumer-sequence.time.pending,
// where the longer form may have one more at the end.
func readMeta(m *nats.Msg) (is meta, err error) {
	tokens := strings.Split(m.Reply, ".")
	at := 4
	if len(tokens) > 9 {
		at = 6
	}
	if len(tokens) < at+5 || tokens[0] != "$JS" || tokens[1] != "ACK" {
		return is, fmt.Errorf("message on %s is of no consumer: its reply subject is %q", m.Subject, m.Reply)
	}
	var numbers [5]uint64
	for i := range numbers {
		n, e := strconv.ParseUint(tokens[at+i], 10, 63)
		numbers[i], err = n, errors.Join(err, e)
	}
	if err != nil {
		return is, fmt.Errorf("message on %s: reply subject %q: %w", m.Subject, m.Reply, err)
	}
	return meta{
		count: numbers[0], sequence: numbers[1], consumerSequence: numbers[2],
		at: time.Unix(0, int64(numbers[3])), pending: numbers[4], //nolint:gosec // it was read as 63 bits
	}, nil
}

// Ack says that the message is done with, and waits until the server knows.
func (d Delivery) Ack(ctx context.Context) error {
	if _, err := d.conn.request(ctx, &nats.Msg{Subject: d.reply, Data: []byte("+ACK")}); err != nil {
		return fmt.Errorf("acknowledge %s: %w", d.Subject, err)
	}
	return nil
}

// Again asks for the message to be given out again, after a while. It does not wait:
// what gets lost is given out again in any case.
func (d Delivery) Again(after time.Duration) error {
	if after <= 0 {
		return d.conn.nc.Publish(d.reply, []byte("-NAK"))
	}
	return d.conn.nc.Publish(d.reply, fmt.Appendf(nil, `-NAK {"delay":%d}`, after.Nanoseconds()))
}

// Hold says that the message is still being worked on. It does not wait.
func (d Delivery) Hold() error { return d.conn.nc.Publish(d.reply, []byte("+WPI")) }
