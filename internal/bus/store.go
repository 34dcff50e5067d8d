package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storeBound limits what one write may take.
const storeBound = 10 * time.Second

// Headers of JetStream that the client has no constants for.
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// Message is a message to store in a stream.
type Message struct {
	Subject string
	// ID lets the stream drop a repeat within its window; empty for none.
	ID string
	// Expect, when it is set, is the sequence that the subject's newest message must
	// have, 0 for none: else the message is refused with [ErrConflict].
	Expect  *uint64
	Headers map[string]string
	Data    []byte
}

// Stored says what became of a message that its stream has.
type Stored struct {
	Sequence uint64
	// Duplicate: the stream had the message already, by its ID, or has one of its
	// subject where only one may be.
	Duplicate bool
}

// Store puts a message into its stream and returns when that has it, on disk unless
// the stream is asynchronous. It fails with [ErrFull], [ErrConflict] or
// [ErrNoResponders] when the stream has not; after any other error it may have it.
func (c *Conn) Store(ctx context.Context, m Message) (Stored, error) {
	ack, err := c.askStored(ctx, m.encode())
	return Stored{Sequence: ack.Sequence, Duplicate: ack.Duplicate}, err
}

// Announce stores a message where a stream keeps its subject, and gives it to those who
// listen now where none does.
func (c *Conn) Announce(ctx context.Context, m Message) error {
	err := c.ask(ctx, askBound, func(ctx context.Context) error {
		_, err := c.js.StreamNameBySubject(ctx, m.Subject)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return c.nc.PublishMsg(m.encode())
	case err != nil:
		return fmt.Errorf("look for the stream of %s: %w", m.Subject, err)
	}
	_, err = c.Store(ctx, m)
	return err
}

// storeBatch puts messages into one stream with one write to disk, all or none.
// Whatever goes wrong with one of them is the error of all.
func (c *Conn) storeBatch(ctx context.Context, messages []Message) ([]Stored, error) {
	id := uuid.NewString()
	last := len(messages) - 1
	for i, m := range messages {
		msg := m.encode()
		msg.Header.Set(headerBatchID, id)
		msg.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		if i < last {
			if err := c.nc.PublishMsg(msg); err != nil {
				return nil, fmt.Errorf("store %s: %w", m.Subject, err)
			}
			continue
		}
		msg.Header.Set(headerBatchCommit, "1")
		ack, err := c.askStored(ctx, msg)
		if err == nil && ack.Count != len(messages) {
			err = fmt.Errorf("store %s: %d of %d messages are stored", m.Subject, ack.Count, len(messages))
		}
		if err != nil {
			return nil, err
		}
		stored := make([]Stored, len(messages))
		for i := range stored {
			stored[i].Sequence = ack.Sequence - uint64(last-i)
		}
		return stored, nil
	}
	return nil, nil
}

func (m Message) encode() *nats.Msg {
	msg := nats.NewMsg(m.Subject)
	msg.Data = m.Data
	for name, value := range m.Headers {
		msg.Header[name] = []string{value} // NATS keeps the spelling
	}
	if m.ID != "" {
		msg.Header.Set(jetstream.MsgIDHeader, m.ID)
	}
	if m.Expect != nil {
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(*m.Expect, 10))
	}
	return msg
}

// refusal is JetStream's word that it has not stored a message.
type refusal struct{ *jetstream.APIError }

func (r refusal) Unwrap() error { return r.APIError }

// ack is how JetStream answers a message.
type ack struct {
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Count     int                 `json:"count"`
	Error     *jetstream.APIError `json:"error"`
}

func (c *Conn) askStored(ctx context.Context, msg *nats.Msg) (a ack, err error) {
	var answer *nats.Msg
	err = c.ask(ctx, storeBound, func(ctx context.Context) error {
		answer, err = c.nc.RequestMsgWithContext(ctx, msg)
		return err
	})
	if err == nil {
		a, err = readAck(answer.Data)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("no stream takes it: %w", ErrNoResponders)
	}
	if err != nil {
		err = fmt.Errorf("store %s: %w", msg.Subject, err)
	}
	return a, err
}

// readAck reads JetStream's answer. It tells the ways of being full by their text
// only.
func readAck(data []byte) (a ack, err error) {
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("JetStream's answer is malformed: %w", err)
	}
	switch e := a.Error; {
	case e == nil:
		return a, nil
	case strings.Contains(e.Description, "maximum messages per subject"):
		return ack{Duplicate: true}, nil
	case strings.Contains(e.Description, "maximum bytes"), strings.Contains(e.Description, "maximum messages"):
		return a, errors.Join(ErrFull, refusal{e})
	case e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence, e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return a, errors.Join(ErrConflict, refusal{e})
	}
	return a, refusal{a.Error}
}
