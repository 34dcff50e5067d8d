package intake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// once is what is remembered of an idempotency key.
type once struct {
	// Event is the first one, as it was or should have been accepted.
	Event  wire.Event  `json:"event"`
	Digest wire.Digest `json:"digest"`
	// Accepted: the event is surely on disk. Else its caller may have died before.
	Accepted bool `json:"accepted,omitempty"`
}

// maxKey bounds an idempotency key, in bytes.
const maxKey = 1024

// acceptOnce accepts the first event with a key; the others get its ID.
func (in *Intake) acceptOnce(ctx context.Context, f wire.FunctionID, e wire.Event, r Request, inline []byte, digest wire.Digest) (Accepted, error) {
	sum := sha256.Sum256([]byte(f.Namespace + "." + f.Name + "\x00" + r.Key))
	key := wire.Digest(hex.EncodeToString(sum[:]))
	first := once{Event: e, Digest: digest}
	revision, err := in.remember(ctx, key, first, 0)
	repeated := errors.Is(err, bus.ErrConflict)
	if repeated {
		first, revision, err = in.recall(ctx, key)
	}
	switch {
	case errors.Is(err, bus.ErrFull), errors.Is(err, bus.ErrBusy):
		in.unstow(ctx, e, r)
		return Accepted{}, tooMany("idempotency keys are remembered", err)
	case err != nil:
		in.unstow(ctx, e, r)
		return Accepted{}, wire.Errorf(wire.CodeUnavailable, "the idempotency key could not be looked up: %s", err)
	case first.Digest != digest || first.Event.Ref != e.Ref:
		in.unstow(ctx, e, r)
		return Accepted{}, wire.Errorf(wire.CodeConflict,
			"the idempotency key was used for invocation %s with another payload or version; use another key, or the same request", first.Event.Invocation)
	case first.Accepted:
		in.unstow(ctx, e, r)
		return Accepted{Invocation: first.Event.Invocation, Repeated: true}, nil
	}
	// The first caller may have died before its event was stored, and its payload may be
	// gone. The queue takes the invocation once.
	own := e.PayloadKey
	e = first.Event
	e.PayloadKey = own
	accepted, err := in.publish(ctx, f, e, r, inline)
	if err != nil {
		return accepted, err
	}
	first.Accepted = true
	if _, err := in.remember(ctx, key, first, revision); err != nil && !errors.Is(err, bus.ErrConflict) {
		// A repeat offers the event once more, and the queue or its record drop it.
		in.log.Warn("idempotency key not settled", telemetry.KeyInvocation, string(e.Invocation), telemetry.KeyError, err)
	}
	accepted.Repeated = repeated
	return accepted, nil
}

// remember writes what is known of a key in the place of the revision, 0 for none.
func (in *Intake) remember(ctx context.Context, key wire.Digest, o once, revision uint64) (uint64, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	stored, err := in.keys.Store(ctx, bus.Message{Subject: wire.IdempotencySubject(key), Expect: &revision, Data: data})
	return stored.Sequence, err
}

func (in *Intake) recall(ctx context.Context, key wire.Digest) (o once, revision uint64, err error) {
	m, err := in.conn.LastMessage(ctx, wire.StreamIdempotency, wire.IdempotencySubject(key))
	if err == nil {
		err = json.Unmarshal(m.Data, &o)
	}
	return o, m.Sequence, err
}
