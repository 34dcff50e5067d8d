package wire_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestErrorf(t *testing.T) {
	for code, want := range map[wire.Code]wire.Error{
		wire.CodeThrottled:     {RetryAfterMillis: 1000, Retryable: true},
		wire.CodeNoCapacity:    {RetryAfterMillis: 1000, Retryable: true},
		wire.CodeUnavailable:   {RetryAfterMillis: 1000, Retryable: true},
		wire.CodeNoInstance:    {Retryable: true},
		wire.CodeNotFound:      {},
		wire.CodeInternal:      {},
		wire.CodeFunctionError: {},
	} {
		want.Code, want.Message = code, "a 1"
		if diff := cmp.Diff(&want, wire.Errorf(code, "a %d", 1)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", code, diff)
		}
	}
}

func TestAsError(t *testing.T) {
	if e := wire.AsError(nil); e != nil {
		t.Errorf("of nil: %v", e)
	}
	original := wire.Errorf(wire.CodeInvalid, "no")
	if e := wire.AsError(fmt.Errorf("deploy: %w", original)); e != original {
		t.Errorf("of a wrapped one: %v", e)
	}
	want := &wire.Error{Code: wire.CodeInternal, Message: "disk on fire"}
	if diff := cmp.Diff(want, wire.AsError(errors.New("disk on fire"))); diff != "" {
		t.Errorf("of a plain one (-want +got):\n%s", diff)
	}
	if text := original.Error(); text != "invalid: no" {
		t.Errorf("text %q", text)
	}
}

func TestHasCode(t *testing.T) {
	err := fmt.Errorf("x: %w", wire.Errorf(wire.CodeInvalid, "no"))
	if !wire.HasCode(err, wire.CodeInvalid) || wire.HasCode(err, wire.CodeInternal) || wire.HasCode(nil, wire.CodeInternal) ||
		wire.HasCode(errors.New("x"), wire.CodeInternal) {
		t.Error("codes are mixed up")
	}
}

func TestResources(t *testing.T) {
	a, b := wire.Resources{MemoryBytes: 3, CPUMillis: 3, Instances: 3}, wire.Resources{MemoryBytes: 1, CPUMillis: 2, Instances: 3}
	if got := a.Plus(b).Minus(b); got != a {
		t.Errorf("%+v", got)
	}
	if !a.Fits(a) || !a.Fits(b) {
		t.Error("what is no more does not fit")
	}
	for _, more := range []wire.Resources{{MemoryBytes: 4}, {CPUMillis: 4}, {Instances: 4}} {
		if a.Fits(more) {
			t.Errorf("%+v fits", more)
		}
	}
}
