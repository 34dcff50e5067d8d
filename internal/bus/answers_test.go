package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// TestAnswersInPieces: they come in order, and one that is a question itself can be
// answered.
func TestAnswersInPieces(t *testing.T) {
	conn := open(t)
	told := make(chan error, 1)
	subscribe(t, conn, "story", "", func(m bus.Msg) {
		go func() {
			var errs error
			for n := range 100 {
				errs = errors.Join(errs, conn.Publish(m.Reply(), []byte(fmt.Sprint(n))))
			}
			_, err := conn.Request(t.Context(), m.Reply(), []byte("still there?"))
			told <- errors.Join(errs, err)
		}()
	})
	answers, err := conn.Ask("story", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	for n := range 101 {
		m, err := answers.Next(t.Context(), time.Minute)
		if want := fmt.Sprint(n); err != nil || (n < 100 && string(m.Data) != want) || (m.Reply() != "") != (n == 100) {
			t.Fatalf("piece %s: %q, %v", want, m.Data, err)
		}
		if err := m.Respond(nil); err != nil {
			t.Error(err)
		}
	}
	if err := embedtest.Receive(t, told); err != nil {
		t.Error(err)
	}
}

// TestAnswersThatNobodyGives are told from those that take long.
func TestAnswersThatNobodyGives(t *testing.T) {
	conn := open(t)
	answers, err := conn.Ask("nobody", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	if _, err := answers.Next(t.Context(), time.Minute); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("nobody: %v", err)
	}
	subscribe(t, conn, "silent", "", func(bus.Msg) {})
	silent, err := conn.Ask("silent", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := silent.Next(t.Context(), time.Millisecond); !errors.Is(err, bus.ErrSilent) {
		t.Errorf("silent: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := silent.Next(ctx, time.Minute); !errors.Is(err, gone) || errors.Is(err, bus.ErrSilent) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestAnswersThatNobodyTakes: who answers hears that nobody listens any more.
func TestAnswersThatNobodyTakes(t *testing.T) {
	conn := open(t)
	inbox := make(chan string, 1)
	subscribe(t, conn, "story", "", func(m bus.Msg) { inbox <- m.Reply() })
	answers, err := conn.Ask("story", nil)
	if err != nil {
		t.Fatal(err)
	}
	to := embedtest.Receive(t, inbox)
	answers.Close()
	answers.Close() // again: nothing happens
	if _, err := conn.Request(t.Context(), to, nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("error = %v, want ErrNoResponders", err)
	}
}

// TestAnswersThatComeTooFast: some are lost, which is said, and the others are there.
func TestAnswersThatComeTooFast(t *testing.T) {
	conn := open(t)
	told := make(chan error, 1)
	subscribe(t, conn, "flood", "", func(m bus.Msg) {
		go func() {
			var errs error
			for range bus.MaxAnswers + 1 {
				errs = errors.Join(errs, conn.Publish(m.Reply(), nil))
			}
			told <- errs
		}()
	})
	subscribe(t, conn, "echo", "", func(m bus.Msg) { _ = m.Respond(nil) })
	answers, err := conn.Ask("flood", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	if err := embedtest.Receive(t, told); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Request(t.Context(), "echo", nil); err != nil { // behind all of them
		t.Fatal(err)
	}
	if _, err := answers.Next(t.Context(), time.Minute); !errors.Is(err, bus.ErrMissed) {
		t.Errorf("too many: %v", err)
	}
	for n := range bus.MaxAnswers {
		if _, err := answers.Next(t.Context(), time.Minute); err != nil {
			t.Fatalf("piece %d: %v", n, err)
		}
	}
}
