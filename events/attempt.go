package events

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/events/outcome"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// troublePause is when an event comes again whose record could not be read or
	// written, or whose end could not be told.
	troublePause = time.Second
	// ioBound limits each question to NATS and S3 that is not an attempt.
	ioBound = 30 * time.Second
	// noticeAfter is how long an attempt must run for its record to say that it runs.
	noticeAfter = 100 * time.Millisecond
	// settleTime is how long a function that is not known may be one that was deployed
	// elsewhere a moment ago.
	settleTime = 5 * time.Second
	// dueSlack is how much too early an event may come.
	dueSlack = 5 * time.Millisecond
)

// task is one event in hand.
type task struct {
	queue    *queue
	delivery bus.Delivery
	event    wire.Event
	function wire.FunctionID
	payload  []byte
	entry    records.Entry
	holding  *holding
	log      *slog.Logger
	// spec and version are what the event's reference means now; unknown says that it
	// means nothing.
	spec    functions.EventSpec
	version functions.Version
	unknown *wire.Error
	// rest is what an attempt that did part of the event left of its payload; garbage are
	// the keys of payloads that this took the place of.
	rest    []byte
	garbage []string
	// tried says that the attempt got as far as the dispatcher.
	tried bool
}

// handle does with an event what is due. Whatever it leaves undone is done by whoever
// gets the event next.
func (w *Worker) handle(q *queue, d bus.Delivery) {
	t := w.open(q, d)
	ctx, holding := w.held.add(w.working, d, t.event.Invocation)
	defer w.held.release(holding)
	t.holding = holding
	var err error
	if t.entry, err = w.readRecord(ctx, t); err != nil {
		w.again(t, troublePause, "its record could not be read", err)
		return
	}
	if err := w.takeRest(ctx, t); err != nil {
		w.again(t, troublePause, "its payload could not be read", err)
		return
	}
	if t.entry.Settled(t.event) { // who decided that did not get to the end
		w.finish(ctx, t, t.entry.Record, nil)
		return
	}
	if wait := w.notBefore(t, time.Now()); wait > 0 {
		w.again(t, wait, "", nil)
		return
	}
	w.pauses.over(t.event.Invocation)
	w.advance(ctx, t)
}

// open reads an event. One that cannot be read is given up as invalid, under the name
// that its subject has.
func (w *Worker) open(q *queue, d bus.Delivery) *task {
	t := &task{queue: q, delivery: d, function: q.id.FunctionID, spec: functions.DefaultEventSpec()}
	body, err := wire.ParseFrame(d.Data, &t.event)
	ref, refErr := wire.ParseRef(t.event.Ref)
	subject := d.Subject[strings.LastIndexByte(d.Subject, '.')+1:]
	switch {
	case err != nil || refErr != nil || ref.FunctionID != t.function || string(t.event.Invocation) != subject:
		t.event = wire.Event{Invocation: wire.InvocationID(subject), Ref: t.function.String(), AcceptedAt: d.StoredAt}
		t.payload = d.Data
		t.unknown = wire.Errorf(wire.CodeInvalid, "the event is malformed: publish events through Dayfly, not on %s", d.Subject)
	default:
		t.payload = body
		w.resolve(t, ref)
	}
	t.log = w.log.With(telemetry.KeyInvocation, string(t.event.Invocation), telemetry.KeyFunction, t.function.String())
	return t
}

// resolve finds what the event's reference means now.
func (w *Worker) resolve(t *task, ref wire.Ref) {
	_, v, err := w.deps.Functions.Resolve(ref, drawOf(t.event.Invocation))
	switch e := wire.AsError(err); {
	case err == nil:
		t.version, t.spec = v, v.Spec.EventSpec
	case e.Code == wire.CodeNotFound && w.age(t, time.Now()) < settleTime:
		t.unknown = wire.Errorf(wire.CodeUnavailable, "%s", e.Message)
	default:
		t.unknown = e
	}
}

// drawOf spreads events over the parts of an alias that splits its calls, each attempt
// at one event to the same.
func drawOf(id wire.InvocationID) int {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(id)) // never fails
	return int(sum.Sum32() % 100)
}

func (w *Worker) readRecord(ctx context.Context, t *task) (records.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, ioBound)
	defer cancel()
	return w.records.Read(ctx, t.function, t.event.Invocation)
}

// current reports whether there is a record, and of this life of the event.
func (t *task) current() bool { return t.entry.Revision > 0 && t.entry.Redrives == t.event.Redrives }

// attempts are those that were made so far.
func (t *task) attempts() []wire.Attempt {
	if t.current() {
		return t.entry.Attempts
	}
	return t.event.Attempts
}

// notBefore is how long the event has to wait still.
func (w *Worker) notBefore(t *task, now time.Time) time.Duration {
	var wait time.Duration
	if planned := t.event.NotBefore; !planned.IsZero() {
		wait = planned.Sub(t.event.AcceptedAt) - w.age(t, now)
	}
	if t.current() { // a server that restarts forgets its pauses
		left := t.entry.NextAttemptAt.Sub(now)
		// No longer than it was meant to be: whoever decided it may have another clock.
		meant := t.entry.NextAttemptAt.Sub(t.entry.EndedAt)
		if left > dueSlack && !t.entry.EndedAt.IsZero() && meant > 0 {
			left = min(left, w.pauses.left(t.event.Invocation, t.entry.Revision, meant, now))
		}
		wait = max(wait, left)
	}
	if wait > dueSlack {
		return wait
	}
	return 0
}

// age is how long ago, at a moment, the event was accepted.
func (w *Worker) age(t *task, moment time.Time) time.Duration {
	return w.clock.age(moment, t.delivery.StoredAt)
}

// again gives the event back for a while.
func (w *Worker) again(t *task, after time.Duration, what string, err error) {
	if err != nil {
		t.log.Warn("event given back: "+what, telemetry.KeyError, err)
	}
	if err := t.delivery.Again(after); err != nil { // it comes back by itself
		t.log.Warn("event not given back", telemetry.KeyError, err)
	}
}

// advance makes an attempt, if one may be made, and decides what becomes of the event.
func (w *Worker) advance(ctx context.Context, t *task) {
	now := time.Now()
	attempt := wire.Attempt{Version: wire.VersionID{FunctionID: t.function}, StartedAt: now}
	if t.version.Number > 0 {
		attempt.Version = t.version.VersionID
	}
	var result dispatch.Result
	attempt.Error = t.forbidden(w.age(t, now))
	t.tried = attempt.Error == nil
	if t.tried {
		result, attempt.Error = w.try(ctx, t, now)
		reply := result.Reply
		attempt.Node, attempt.Instance, attempt.Cold = reply.Node, reply.Instance, reply.Cold
		attempt.InitMicros, attempt.RunMicros = reply.InitMicros, reply.RunMicros
	}
	attempt.EndedAt = time.Now()
	switch cause := context.Cause(ctx); {
	case t.holding.cancelled():
		attempt.Error = wire.Errorf(wire.CodeCancelled, "it was cancelled on request")
	case errors.Is(cause, errStopped): // not the event's failure: another worker takes it
		w.again(t, 0, "", nil)
		return
	case w.taking.Err() != nil && outcome.Classify(attempt.Error) == outcome.Refused: // nothing ran: nor is this
		w.again(t, 0, "", nil)
		return
	}
	w.decide(ctx, t, attempt, result)
}

// forbidden says why no attempt may be made at an event of that age; nil if one may.
func (t *task) forbidden(age time.Duration) *wire.Error {
	switch {
	case t.unknown != nil:
		return t.unknown
	case t.event.Depth > wire.MaxEventDepth:
		return wire.Errorf(wire.CodeInvalid,
			"it is the last of %d events that came one of the other: a loop; look at the destinations of %s, and at what it calls and publishes", t.event.Depth, t.function)
	}
	var last *wire.Error
	if attempts := t.attempts(); len(attempts) > 0 {
		last = attempts[len(attempts)-1].Error
	}
	return outcome.Expired(t.spec, age, last)
}

// try makes one attempt.
func (w *Worker) try(ctx context.Context, t *task, begun time.Time) (dispatch.Result, *wire.Error) {
	v := t.version
	notice := time.AfterFunc(noticeAfter, func() {
		r := records.OfEvent(t.event, t.function, wire.StateRunning)
		r.Version, r.StartedAt, r.Attempts = v.VersionID, begun, t.attempts()
		if err := w.records.Note(r); err != nil {
			t.log.Warn("record lost", telemetry.KeyError, err)
		}
	})
	defer notice.Stop()
	result, err := w.deps.Dispatcher.Invoke(ctx, dispatch.Call{
		Invocation:  t.event.Invocation,
		Place:       v.PlaceRequest(t.event.Invocation, runtimes.StemKey(v.Spec.Runtime, v.Code, v.Spec.Network)),
		Concurrency: v.Spec.Concurrency, Timeout: v.Spec.Timeout(),
		Payload: t.payload, PayloadKey: t.event.PayloadKey, Event: true, Gone: t.holding.gone,
		Cause: t.event.Cause, Depth: t.event.Depth,
	})
	if err != nil {
		return result, wire.AsError(err)
	}
	if result.Reply.Output == nil {
		return result, wire.Errorf(wire.CodeInternal, "node %s did not store the output; upgrade it", result.Reply.Node)
	}
	return result, w.undone(ctx, t, result)
}

// decide writes down what an attempt came to, and acts on it.
func (w *Worker) decide(ctx context.Context, t *task, attempt wire.Attempt, result dispatch.Result) {
	// What was decided is written and told even when the event's time is up.
	ctx = context.WithoutCancel(ctx)
	class := outcome.Classify(attempt.Error)
	facts := outcome.Facts{
		Error: attempt.Error, Attempts: len(t.attempts()) - len(t.event.Attempts),
		Age: w.age(t, attempt.EndedAt), Random: rand.Float64(), //nolint:gosec // a jitter is no secret
	}
	switch {
	case !t.tried:
	case class == outcome.Refused:
		facts.Refusals = t.queue.refused()
	default:
		if class.Counts() {
			facts.Attempts++
		}
		t.queue.ran()
	}
	verdict := outcome.Decide(t.spec, facts)
	w.metrics.attempt(class)
	r := records.OfEvent(t.event, t.function, verdict.State)
	if class == outcome.Refused && verdict.State == wire.StateAccepted {
		w.wait(t, r, attempt, verdict.Delay)
		return
	}
	t.addAttempt(&r, attempt)
	switch verdict.State {
	case wire.StateSucceeded:
		r.Output = result.Reply.Output
	case wire.StateAccepted:
		r.NextAttemptAt = time.Now().Add(verdict.Delay)
		t.log.Warn("attempt failed; trying again", telemetry.KeyCode, string(attempt.Error.Code), telemetry.KeyError, attempt.Error.Message,
			"attempt", len(r.Attempts), "pause", verdict.Delay)
	default:
		t.log.Warn("event is "+string(verdict.State), telemetry.KeyCode, string(attempt.Error.Code), telemetry.KeyError, attempt.Error.Message,
			"attempt", len(r.Attempts), "why", string(verdict.Why))
	}
	bounded, cancel := context.WithTimeout(ctx, ioBound)
	defer cancel()
	err := w.keepRest(bounded, t, &r)
	if err == nil {
		_, err = w.records.Write(bounded, r, t.entry.Revision)
	}
	switch {
	case errors.Is(err, bus.ErrConflict):
		w.overtaken(ctx, t, attempt)
	case err != nil:
		w.again(t, troublePause, "its record could not be written", err)
	case verdict.State == wire.StateAccepted:
		w.dropRest(bounded, t, r.PayloadKey)
		w.again(t, verdict.Delay, "", nil)
	default:
		w.finish(ctx, t, r, result.Body)
	}
}

// addAttempt enters an attempt, or why there was none, into the event's record.
func (t *task) addAttempt(r *wire.Record, attempt wire.Attempt) {
	if t.tried {
		records.AddAttempt(r, t.attempts(), attempt)
		return
	}
	r.Attempts, r.Version, r.Error = t.attempts(), attempt.Version, attempt.Error
	r.StartedAt, r.EndedAt = attempt.StartedAt, attempt.EndedAt
}

// wait lets an event whose function takes none now wait with its whole queue.
func (w *Worker) wait(t *task, r wire.Record, attempt wire.Attempt, delay time.Duration) {
	if t.tried {
		t.queue.pause(delay)
	}
	r.Version, r.Error, r.Attempts, r.NextAttemptAt = attempt.Version, attempt.Error, t.attempts(), time.Now().Add(delay)
	if err := w.records.Note(r); err != nil {
		t.log.Warn("record lost", telemetry.KeyError, err)
	}
	t.log.Debug("event waits", telemetry.KeyCode, string(attempt.Error.Code), "pause", delay)
	w.again(t, delay, "", nil)
}

// overtaken looks at who wrote the event's record meanwhile. An end counts, and an
// attempt that was cancelled is told of there; else another worker has the event.
func (w *Worker) overtaken(ctx context.Context, t *task, attempt wire.Attempt) {
	entry, err := w.readRecord(ctx, t)
	if err != nil {
		w.again(t, troublePause, "its record could not be read", err)
		return
	}
	if !entry.Settled(t.event) {
		t.log.Warn("another worker has the event")
		return
	}
	r := entry.Record
	if r.State == wire.StateCancelled && t.tried {
		records.AddAttempt(&r, entry.Attempts, attempt)
		bounded, cancel := context.WithTimeout(ctx, ioBound)
		defer cancel()
		if _, err := w.records.Write(bounded, r, entry.Revision); err != nil { // who cancelled it said enough
			t.log.Warn("attempt left out of the record", telemetry.KeyError, fmt.Errorf("write record: %w", err))
		}
	}
	w.finish(ctx, t, r, nil)
}
