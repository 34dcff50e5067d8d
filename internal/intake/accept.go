package intake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// fullPause is when a caller may ask again after the queue was full.
	fullPause = 5 * time.Second
	// cleanUpBound limits removing a payload that no event needs.
	cleanUpBound = 30 * time.Second
	payloadType  = "application/octet-stream"
)

// Request is an event to accept.
type Request struct {
	// Event needs Ref and Source. Without an Invocation it gets a new one; with one,
	// see [DeriveID], a repeat is dropped. PayloadKey names a payload that is in S3
	// already. AcceptedAt and PayloadBytes are filled in.
	Event wire.Event
	// Payload is the event's payload, or Body where it comes from a reader: it is not
	// held in memory when it is large.
	Payload []byte
	Body    io.Reader
	// Key makes a repeat of the request to the same function get the first invocation;
	// empty for none.
	Key string
	// Same is what a repeat with the Key has in common with the first request; nil for
	// the payload.
	Same []byte
}

// Accepted says what came of a request.
type Accepted struct {
	Invocation wire.InvocationID
	// Repeated: the event was accepted before, and nothing was added.
	Repeated bool
}

// Accept puts an event on disk. When it returns no error, the event will be run or end
// among the dead letters. Its errors are [*wire.Error]: throttled when the queue is
// full, too_large, conflict when the key was used for another payload, invalid, and
// unavailable, after which the event may be accepted nevertheless.
func (in *Intake) Accept(ctx context.Context, r Request) (Accepted, error) {
	ref, err := wire.ParseRef(r.Event.Ref)
	if err != nil {
		return Accepted{}, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	if len(r.Key) > maxKey {
		return Accepted{}, wire.Errorf(wire.CodeInvalid, "the idempotency key has %d bytes; use at most %d", len(r.Key), maxKey)
	}
	e := r.Event
	e.AcceptedAt = time.Now()
	if e.Invocation == "" {
		if e.Invocation, err = NewID(); err != nil {
			return Accepted{}, err
		}
	}
	inline, digest, err := in.stow(ctx, &e, r)
	if err != nil {
		return Accepted{}, err
	}
	if q := e.Queue(ref.FunctionID); !in.queues.fresh(q, time.Now()) {
		if err := in.OpenQueue(ctx, q); err != nil {
			in.unstow(ctx, e, r)
			return Accepted{}, err
		}
	}
	if r.Key != "" {
		if r.Same != nil {
			sum := sha256.Sum256(r.Same)
			digest = wire.Digest(hex.EncodeToString(sum[:]))
		}
		return in.acceptOnce(ctx, ref.FunctionID, e, r, inline, digest)
	}
	return in.publish(ctx, ref.FunctionID, e, r, inline)
}

// publish puts the event into its queue. A payload in S3 that came with the request
// stays there only if the event is new.
func (in *Intake) publish(ctx context.Context, f wire.FunctionID, e wire.Event, r Request, inline []byte) (Accepted, error) {
	frame, err := wire.AppendFrame(make([]byte, 0, 512+len(inline)), e, inline)
	if err != nil {
		in.unstow(ctx, e, r)
		return Accepted{}, wire.AsError(err)
	}
	id := string(e.Invocation)
	if e.Redrives > 0 { // it was here before
		id += "/" + strconv.Itoa(e.Redrives)
	}
	q := e.Queue(f)
	message := bus.Message{Subject: q.Subject(e.Invocation), ID: id, Data: frame}
	stored, err := in.events.Store(ctx, message)
	if bus.Lost(err) && r.Event.Invocation == "" && r.Key == "" { // the ID is nobody else's: what is there is this event
		stored, err = in.events.Store(ctx, message)
		stored.Duplicate = false
	}
	if errors.Is(err, bus.ErrFull) || errors.Is(err, bus.ErrBusy) {
		in.unstow(ctx, e, r)
		return Accepted{}, tooMany("events wait", err)
	}
	in.hint(q) // after any other error it may be stored
	switch {
	case err != nil:
		lost := wire.Errorf(wire.CodeUnavailable, "the event could not be stored: %s", err)
		lost.Retryable = false // it may be stored: only with an idempotency key is a repeat harmless
		return Accepted{}, lost
	case stored.Duplicate:
		in.unstow(ctx, e, r)
	}
	return Accepted{Invocation: e.Invocation, Repeated: stored.Duplicate}, nil
}

// tooMany is the answer to a caller who has to come back later.
func tooMany(what string, err error) error {
	e := wire.Errorf(wire.CodeThrottled, "too many %s (%s); try again later", what, err)
	e.RetryAfterMillis = fullPause.Milliseconds()
	return e
}

// stow reads the payload: a small one into memory, a larger one into S3. With an
// idempotency key it tells the payload's digest.
func (in *Intake) stow(ctx context.Context, e *wire.Event, r Request) (inline []byte, digest wire.Digest, err error) {
	if e.PayloadKey != "" {
		return nil, "", nil
	}
	body := r.Body
	if body == nil {
		body = bytes.NewReader(r.Payload)
	}
	sum := sha256.New()
	limit, err := in.maxInline(*e)
	if err != nil {
		return nil, "", err
	}
	if r.Body == nil && len(r.Payload) <= limit {
		inline = r.Payload
	} else if inline, err = io.ReadAll(io.LimitReader(body, int64(limit)+1)); err != nil {
		return nil, "", wire.Errorf(wire.CodeInvalid, "the event could not be read: %s", err)
	}
	if len(inline) <= limit {
		e.PayloadBytes = int64(len(inline))
		_, _ = sum.Write(inline) // a hash takes everything
		return inline, digestOf(sum), nil
	}
	counted := &counter{r: io.TeeReader(io.MultiReader(bytes.NewReader(inline), body), sum), limit: wire.MaxAsyncPayload}
	e.PayloadKey = wire.RequestKey(e.Invocation)
	if r.Key != "" || r.Event.Invocation != "" { // a repeat must not write over it, nor remove it
		e.PayloadKey += "-" + uuid.NewString()
	}
	err = in.store.PutStream(ctx, e.PayloadKey, counted, payloadType)
	switch {
	case counted.over:
		return nil, "", wire.Errorf(wire.CodeTooLarge, "the event has more than %d bytes", int64(wire.MaxAsyncPayload))
	case errors.Is(err, blob.ErrSource):
		return nil, "", wire.Errorf(wire.CodeInvalid, "the event could not be read: %s", err)
	case err != nil:
		return nil, "", wire.Errorf(wire.CodeUnavailable, "the event could not be stored: %s", err)
	}
	e.PayloadBytes = counted.n
	return nil, digestOf(sum), nil
}

// maxInline is the largest payload that fits into one message with its event, in bytes.
func (in *Intake) maxInline(e wire.Event) (int, error) {
	limit := in.conn.MaxPayload() - wire.FrameHeadroom
	if len(e.Attempts) == 0 {
		return limit, nil
	}
	history, err := json.Marshal(e.Attempts)
	if err != nil {
		return 0, wire.AsError(err)
	}
	return max(0, limit-len(history)), nil
}

// unstow removes what stow put into S3.
func (in *Intake) unstow(ctx context.Context, e wire.Event, r Request) {
	if e.PayloadKey == "" || r.Event.PayloadKey != "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpBound)
	defer cancel()
	if err := in.store.Delete(ctx, e.PayloadKey); err != nil { // the sweep takes it one day
		in.log.Warn("payload left behind", "key", e.PayloadKey, telemetry.KeyError, err)
	}
}

func digestOf(h hash.Hash) wire.Digest { return wire.Digest(hex.EncodeToString(h.Sum(nil))) }

// counter counts what is read, up to a limit.
type counter struct {
	r        io.Reader
	n, limit int64
	over     bool
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.n += int64(n); c.n > c.limit {
		c.over = true
		return n, fmt.Errorf("more than %d bytes", c.limit)
	}
	return n, err
}

// NewID makes an ID that sorts by time.
func NewID() (wire.InvocationID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", wire.Errorf(wire.CodeInternal, "no randomness for an ID: %s", err)
	}
	return wire.InvocationID(id.String()), nil
}

// DeriveID makes the ID of an event that one happening makes, however often it is
// noticed: the same moment, to the millisecond, and the same parts give the same ID. It
// sorts by time as others do.
func DeriveID(at time.Time, parts ...string) wire.InvocationID {
	h := sha256.New()
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // a hash takes everything
	}
	var id uuid.UUID
	copy(id[:], h.Sum(nil))
	for i, millis := 0, at.UnixMilli(); i < 6; i++ {
		id[i] = byte(millis >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // variant of RFC 9562
	return wire.InvocationID(id.String())
}
