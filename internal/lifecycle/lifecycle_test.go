package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/lifecycle"
)

// script is a service that notes what is done to it.
type script struct {
	name        string
	calls       *[]string
	start, stop error
	onStop      func(context.Context)
}

func (s script) Start(context.Context) error {
	*s.calls = append(*s.calls, "start "+s.name)
	return s.start
}

func (s script) Stop(ctx context.Context) error {
	*s.calls = append(*s.calls, "stop "+s.name)
	if s.onStop != nil {
		s.onStop(ctx)
	}
	return s.stop
}

func newGroup(services ...script) *lifecycle.Group {
	g := &lifecycle.Group{Log: slog.New(slog.DiscardHandler)}
	for _, s := range services {
		g.Add(s.name, s)
	}
	return g
}

func want(t *testing.T, calls []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestStopsInReverse(t *testing.T) {
	var calls []string
	g := newGroup(script{name: "a", calls: &calls}, script{name: "b", calls: &calls})
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing runs any more
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want(t, calls, "start a", "start b", "stop b", "stop a")
}

func TestFailedStartIsUndone(t *testing.T) {
	var calls []string
	broken, stuck := errors.New("broken"), errors.New("stuck")
	ctx, cancel := context.WithCancel(t.Context())
	g := newGroup(
		script{name: "a", calls: &calls, stop: stuck, onStop: func(ctx context.Context) {
			if ctx.Err() != nil {
				t.Error("the context of the failed start is used to stop")
			}
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the stop has no bound")
			}
		}},
		script{name: "b", calls: &calls, start: broken},
		script{name: "c", calls: &calls},
	)
	cancel()
	err := g.Start(ctx)
	if !errors.Is(err, broken) || !errors.Is(err, stuck) {
		t.Errorf("error = %v, want both", err)
	}
	want(t, calls, "start a", "start b", "stop a")
	if err := g.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	want(t, calls, "start a", "start b", "stop a")
}

func TestStopGoesOnAfterAnError(t *testing.T) {
	var calls []string
	one, two := errors.New("one"), errors.New("two")
	g := newGroup(script{name: "a", calls: &calls, stop: one}, script{name: "b", calls: &calls, stop: two})
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Stop(t.Context()); !errors.Is(err, one) || !errors.Is(err, two) {
		t.Errorf("error = %v, want both", err)
	}
	want(t, calls, "start a", "start b", "stop b", "stop a")
}

func TestFunc(t *testing.T) {
	broken := errors.New("broken")
	f := lifecycle.Func{OnStart: func(context.Context) error { return broken }}
	if err := f.Start(t.Context()); !errors.Is(err, broken) {
		t.Errorf("start: %v", err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
}
