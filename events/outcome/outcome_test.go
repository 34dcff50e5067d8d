package outcome_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/events/outcome"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// ends is every way an attempt can end, and what it means.
var ends = []struct {
	err    *wire.Error
	class  outcome.Class
	counts bool
}{
	{nil, outcome.Succeeded, true},
	{&wire.Error{Code: wire.CodeFunctionError}, outcome.Failed, true},
	{&wire.Error{Code: wire.CodeFunctionTimeout}, outcome.Failed, true},
	{&wire.Error{Code: wire.CodeFunctionOutOfMemory}, outcome.Failed, true},
	{&wire.Error{Code: wire.CodeFunctionExited}, outcome.Failed, true},
	{wire.Errorf(wire.CodeThrottled, ""), outcome.Refused, false},
	{wire.Errorf(wire.CodeNoCapacity, ""), outcome.Refused, false},
	{wire.Errorf(wire.CodeNoInstance, ""), outcome.Refused, false},
	{wire.Errorf(wire.CodeUnavailable, ""), outcome.Refused, false},
	{&wire.Error{Code: wire.CodeUnavailable}, outcome.Lost, true},
	{&wire.Error{Code: wire.CodeInternal}, outcome.Failed, true},
	{&wire.Error{Code: wire.CodeConflict}, outcome.Failed, true},
	{&wire.Error{Code: "new"}, outcome.Failed, true},
	{&wire.Error{Code: wire.CodeNotFound}, outcome.Hopeless, false},
	{&wire.Error{Code: wire.CodeInvalid}, outcome.Hopeless, false},
	{&wire.Error{Code: wire.CodeTooLarge}, outcome.Hopeless, false},
	{&wire.Error{Code: wire.CodeUnauthorized}, outcome.Hopeless, false},
	{&wire.Error{Code: wire.CodeCancelled}, outcome.Cancelled, true},
}

func TestClassify(t *testing.T) {
	for _, end := range ends {
		if got := outcome.Classify(end.err); got != end.class || got.Counts() != end.counts {
			t.Errorf("%v: %s, counts %t", end.err, got, got.Counts())
		}
	}
}

// TestDecide is the whole table, with half an hour of two, and one attempt of three made.
func TestDecide(t *testing.T) {
	spec := functions.EventSpec{
		DeadLetter: true,
		Retry:      functions.RetrySpec{Attempts: 3, MaxAgeMillis: 2 * 3600_000, Backoff: functions.BackoffExponential, DelayMillis: 1000},
	}
	young := outcome.Facts{Attempts: 1, Refusals: 1, Age: time.Minute, Random: 0.5}
	spent, old := young, young
	spent.Attempts, old.Age = 3, 2*time.Hour
	type verdicts struct{ young, spent, old outcome.Verdict }
	again := func(d time.Duration) outcome.Verdict { return outcome.Verdict{State: wire.StateAccepted, Delay: d} }
	dead := func(why outcome.Why) outcome.Verdict { return outcome.Verdict{State: wire.StateDead, Why: why} }
	always := func(v outcome.Verdict) verdicts { return verdicts{v, v, v} }
	want := map[outcome.Class]verdicts{
		outcome.Succeeded: always(outcome.Verdict{State: wire.StateSucceeded}),
		outcome.Cancelled: always(outcome.Verdict{State: wire.StateCancelled}),
		outcome.Hopeless:  always(dead(outcome.WhyHopeless)),
		outcome.Failed:    {again(time.Second), dead(outcome.WhyAttempts), dead(outcome.WhyAge)},
		outcome.Lost:      {again(50 * time.Millisecond), dead(outcome.WhyAttempts), dead(outcome.WhyAge)},
		// It says itself that it wants a second, and burns no attempt.
		outcome.Refused: {again(time.Second), again(time.Second), dead(outcome.WhyAge)},
	}
	for _, end := range ends {
		v := want[end.class]
		for _, test := range []struct {
			name  string
			facts outcome.Facts
			want  outcome.Verdict
		}{{"young", young, v.young}, {"spent", spent, v.spent}, {"old", old, v.old}} {
			f, want := test.facts, test.want
			f.Error = end.err
			if end.err != nil && end.err.Code == wire.CodeNoInstance && want.Delay > 0 {
				want.Delay = 200 * time.Millisecond // it names no pause
			}
			if got := outcome.Decide(spec, f); got != want {
				t.Errorf("%v, %s: %+v, want %+v", end.err, test.name, got, want)
			}
			noLetter := spec
			noLetter.DeadLetter = false
			if want.State == wire.StateDead {
				want.State = wire.StateFailed
			}
			if got := outcome.Decide(noLetter, f); got != want {
				t.Errorf("without dead letters, %v, %s: %+v, want %+v", end.err, test.name, got, want)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	failed := &wire.Error{Code: wire.CodeFunctionError}
	spec := functions.EventSpec{Retry: functions.RetrySpec{Attempts: 20, MaxAgeMillis: 1e9, Backoff: functions.BackoffExponential, DelayMillis: 1000}}
	for attempts, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 19: 5 * time.Minute} {
		if got := outcome.Decide(spec, outcome.Facts{Error: failed, Attempts: attempts, Random: 0.5}); got.Delay != want {
			t.Errorf("after %d attempts %s, want %s", attempts, got.Delay, want)
		}
	}
	spec.Retry.Backoff = functions.BackoffConstant
	if got := outcome.Decide(spec, outcome.Facts{Error: failed, Attempts: 9, Random: 0.5}); got.Delay != time.Second {
		t.Errorf("constant: %s", got.Delay)
	}
	refused := &wire.Error{Code: wire.CodeThrottled}
	for refusals, want := range map[int]time.Duration{1: 200 * time.Millisecond, 2: 400 * time.Millisecond, 50: 10 * time.Second} {
		if got := outcome.Decide(spec, outcome.Facts{Error: refused, Refusals: refusals, Random: 0.5}); got.Delay != want {
			t.Errorf("after %d refusals %s, want %s", refusals, got.Delay, want)
		}
	}
}

// TestDelaysAreBounded: whatever the facts, a pause is within the jitter of its bounds,
// and a counted failure ends after the attempts.
func TestDelaysAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end := rapid.SampledFrom(ends).Draw(t, "end")
		spec := functions.EventSpec{DeadLetter: rapid.Bool().Draw(t, "letter"), Retry: functions.RetrySpec{
			Attempts: rapid.IntRange(0, 20).Draw(t, "most"), MaxAgeMillis: rapid.Int64Range(0, 1e9).Draw(t, "maxAge"),
			Backoff: rapid.SampledFrom(functions.Backoffs()).Draw(t, "backoff"), DelayMillis: rapid.Int64Range(0, 300_000).Draw(t, "delay"),
		}}
		f := outcome.Facts{
			Error: end.err, Attempts: rapid.IntRange(1, 1e6).Draw(t, "attempts"), Refusals: rapid.IntRange(0, 1e6).Draw(t, "refusals"),
			Age: time.Duration(rapid.Int64Range(0, 1e18).Draw(t, "age")), Random: rapid.Float64Range(0, 0.999).Draw(t, "random"),
		}
		v := outcome.Decide(spec, f)
		switch {
		case v.State != wire.StateAccepted:
			if v.Delay != 0 || !v.State.Final() {
				t.Fatalf("%+v", v)
			}
		case v.Delay <= 0 || v.Delay > functions.MaxRetryDelay*6/5:
			t.Fatalf("pause %s", v.Delay)
		case end.counts && f.Attempts >= max(spec.Retry.Attempts, functions.DefaultAttempts):
			t.Fatalf("attempt %d of %d is not the last", f.Attempts, spec.Retry.Attempts)
		}
	})
}

func TestExpired(t *testing.T) {
	spec := functions.EventSpec{Retry: functions.RetrySpec{MaxAgeMillis: 1000}}
	if e := outcome.Expired(spec, time.Second, nil); e != nil {
		t.Error(e)
	}
	for _, last := range []*wire.Error{nil, {Code: wire.CodeFunctionError, Message: "boom"}} {
		e := outcome.Expired(spec, 2*time.Second, last)
		if e == nil || last != nil && e.Code != last.Code {
			t.Errorf("after %v: %v", last, e)
		}
	}
}
