package bus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// alone is a connection without a server, which can be lost.
func alone() *Conn {
	c := &Conn{}
	c.session.renew()
	return c
}

// overslept is a context whose time is over, and whose timer has not noticed.
type overslept struct{ context.Context }

func (overslept) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func TestAskAfterAPause(t *testing.T) {
	err := alone().ask(overslept{t.Context()}, askBound, func(context.Context) error {
		t.Error("a question was put too late")
		return nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestAsk: a question without an answer is waited for until its bound, until the connection
// is lost, or until its caller leaves, whichever is first, also when the caller has hours.
func TestAsk(t *testing.T) {
	errLeft := errors.New("the caller left")
	for name, test := range map[string]struct {
		patience, left, lost time.Duration
		want                 error
		takes                time.Duration
	}{
		"nobody answers":         {want: errUnanswered, takes: askBound},
		"the caller is patient":  {patience: time.Hour, want: errUnanswered, takes: askBound},
		"the caller is not":      {patience: time.Second, want: context.DeadlineExceeded, takes: time.Second},
		"the caller leaves":      {left: 2 * time.Second, want: errLeft, takes: 2 * time.Second},
		"the connection is lost": {patience: time.Hour, lost: 3 * time.Second, want: errLost, takes: 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := alone()
				ctx, leave := context.WithCancelCause(t.Context())
				defer leave(nil)
				if test.patience > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.patience)
					defer cancel()
				}
				if test.left > 0 {
					time.AfterFunc(test.left, func() { leave(errLeft) })
				}
				if test.lost > 0 {
					time.AfterFunc(test.lost, c.session.renew)
				}
				begun := time.Now()
				err := c.ask(ctx, askBound, func(ctx context.Context) error {
					<-ctx.Done()
					return ctx.Err()
				})
				if took := time.Since(begun); !errors.Is(err, test.want) || took != test.takes {
					t.Errorf("%v after %s, want %v after %s", err, took, test.want, test.takes)
				}
			})
		})
	}
}
