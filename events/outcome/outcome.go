// Package outcome decides what becomes of an event after an attempt. It is pure: no
// clock, no I/O, and no randomness of its own.
package outcome

import (
	"cmp"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Class says what an attempt's end means.
type Class string

// Classes of ends.
const (
	// Succeeded: the event is done.
	Succeeded Class = "succeeded"
	// Failed: the function had the event and failed, or may have.
	Failed Class = "failed"
	// Lost: the node that had the event is gone. Another one may be well.
	Lost Class = "lost"
	// Refused: nothing ran, and later it may.
	Refused Class = "refused"
	// Hopeless: it would end like this every time.
	Hopeless Class = "hopeless"
	// Cancelled: somebody asked for the end.
	Cancelled Class = "cancelled"
)

// classes is the table of every code that an attempt can end with. One that does not
// stand here is the platform's own failure, under which the function may have run.
var classes = map[wire.Code]Class{
	wire.CodeFunctionError:       Failed,
	wire.CodeFunctionTimeout:     Failed,
	wire.CodeFunctionOutOfMemory: Failed,
	wire.CodeFunctionExited:      Failed,
	wire.CodeThrottled:           Refused,
	wire.CodeNoCapacity:          Refused,
	wire.CodeNoInstance:          Refused,
	wire.CodeNotFound:            Hopeless,
	wire.CodeConflict:            Failed,
	wire.CodeInvalid:             Hopeless,
	wire.CodeTooLarge:            Hopeless,
	wire.CodeUnauthorized:        Hopeless,
	wire.CodeCancelled:           Cancelled,
	wire.CodeUnavailable:         Lost, // unless it says that nothing ran
	wire.CodeInternal:            Failed,
}

// Classify says what the end of an attempt means.
func Classify(e *wire.Error) Class {
	switch {
	case e == nil:
		return Succeeded
	case e.Code == wire.CodeUnavailable && e.Retryable:
		return Refused
	}
	return cmp.Or(classes[e.Code], Failed)
}

// Counts reports whether an attempt that ended so was one: the event may have run.
func (c Class) Counts() bool { return c != Refused && c != Hopeless }

// Facts are all that the decision is made of.
type Facts struct {
	// Error is how the attempt ended; nil for well.
	Error *wire.Error
	// Attempts counts those since the event was last put in its queue, this one
	// included if it counts.
	Attempts int
	// Refusals counts the ends that were none, one after the other, up to this one.
	Refusals int
	// Age is how long ago the event was accepted.
	Age time.Duration
	// Random is from 0 up to, and without, 1.
	Random float64
}

// Verdict is what becomes of the event.
type Verdict struct {
	// State is the event's next one; accepted means that it is tried again, after Delay.
	State wire.State
	Delay time.Duration
	// Why says what made a failure the last one; see the Why constants.
	Why Why
}

// Why is the reason that no further attempt is made.
type Why string

// Reasons, as a destination hears them.
const (
	WhyAttempts Why = "RetriesExhausted"
	WhyAge      Why = "EventAgeExceeded"
	WhyHopeless Why = "NotRetryable"
)

const (
	// lostDelay is the pause after a node was lost, once, twice as long the next time.
	lostDelay = 50 * time.Millisecond
	// refusedDelay and maxRefusedDelay bound the pause after a refusal.
	refusedDelay    = 200 * time.Millisecond
	maxRefusedDelay = 10 * time.Second
	// jitter is by which part a pause is longer or shorter than said, so that what
	// failed together does not come back together.
	jitter = 0.2
)

// Decide says what becomes of an event whose attempt ended.
func Decide(spec functions.EventSpec, f Facts) Verdict {
	retry := withDefaults(spec.Retry)
	last := func(why Why) Verdict {
		if spec.DeadLetter {
			return Verdict{State: wire.StateDead, Why: why}
		}
		return Verdict{State: wire.StateFailed, Why: why}
	}
	again := func(delay time.Duration) Verdict {
		delay += time.Duration((2*f.Random - 1) * jitter * float64(delay))
		if f.Age+delay > retry.MaxAge() {
			return last(WhyAge)
		}
		return Verdict{State: wire.StateAccepted, Delay: delay}
	}
	switch Classify(f.Error) {
	case Succeeded:
		return Verdict{State: wire.StateSucceeded}
	case Cancelled:
		return Verdict{State: wire.StateCancelled}
	case Hopeless:
		return last(WhyHopeless)
	case Refused:
		delay := grow(refusedDelay, f.Refusals, maxRefusedDelay)
		if f.Error.RetryAfterMillis > 0 {
			delay = min(max(delay, time.Duration(f.Error.RetryAfterMillis)*time.Millisecond), maxRefusedDelay)
		}
		return again(delay)
	case Lost:
		if f.Attempts >= retry.Attempts {
			return last(WhyAttempts)
		}
		return again(grow(lostDelay, f.Attempts, functions.MaxRetryDelay))
	default:
		if f.Attempts >= retry.Attempts {
			return last(WhyAttempts)
		}
		if retry.Backoff == functions.BackoffConstant {
			return again(retry.Delay())
		}
		return again(grow(retry.Delay(), f.Attempts, functions.MaxRetryDelay))
	}
}

// Expired says why an event must not be tried any more, before an attempt; nil if it may.
func Expired(spec functions.EventSpec, age time.Duration, last *wire.Error) *wire.Error {
	limit := withDefaults(spec.Retry).MaxAge()
	if age <= limit {
		return nil
	}
	e := wire.Error{Code: wire.CodeUnavailable, Message: fmt.Sprintf("the event waited longer than retry.maxAge, which is %s", limit)}
	if last != nil {
		e = *last
		e.Message = fmt.Sprintf("the event grew older than retry.maxAge, which is %s; before that: %s", limit, last.Message)
	}
	return &e
}

// withDefaults fills in what a spec that no manifest made leaves out.
func withDefaults(r functions.RetrySpec) functions.RetrySpec {
	d := functions.DefaultEventSpec().Retry
	r.Attempts = cmp.Or(r.Attempts, d.Attempts)
	r.MaxAgeMillis = cmp.Or(r.MaxAgeMillis, d.MaxAgeMillis)
	r.Backoff = cmp.Or(r.Backoff, d.Backoff)
	r.DelayMillis = cmp.Or(r.DelayMillis, d.DelayMillis)
	return r
}

// grow doubles a pause for every time after the first, up to a limit.
func grow(first time.Duration, times int, limit time.Duration) time.Duration {
	for ; times > 1 && first < limit; times-- {
		first *= 2
	}
	return min(first, limit)
}
