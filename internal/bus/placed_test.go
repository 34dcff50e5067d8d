package bus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestPlaced(t *testing.T) {
	starting := &jetstream.APIError{ErrorCode: noPeers}
	other := &jetstream.APIError{ErrorCode: 10074}
	for name, test := range map[string]struct {
		answers []error // the last again and again
		want    error
		takes   time.Duration
	}{
		"at once":          {[]error{nil}, nil, 0},
		"servers start":    {[]error{starting, &jetstream.APIError{ErrorCode: notReady}, nil}, nil, 2 * placePause},
		"servers are gone": {[]error{starting}, starting, placeBound},
		"nobody answers":   {[]error{errUnanswered, errLost, nil}, nil, 2 * placePause},
		"another error":    {[]error{other}, other, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, tries, c := time.Now(), 0, alone()
				err := c.placed(t.Context(), func(context.Context) error {
					tries++
					return test.answers[min(tries, len(test.answers))-1]
				})
				if took := time.Since(begun); !errors.Is(err, test.want) || took != test.takes {
					t.Errorf("%v after %s", err, took)
				}
			})
		})
	}
}

// TestAgain: an answer that is lost is asked for again, soon.
func TestAgain(t *testing.T) {
	notFound := errors.New("not found")
	for name, test := range map[string]struct {
		lost  int   // answers that do not come
		then  error // the answer
		want  error
		takes time.Duration
	}{
		"at once":           {0, nil, nil, 0},
		"the first is lost": {1, nil, nil, firstBound + placePause},
		"two are lost":      {2, notFound, notFound, 3*firstBound + 2*placePause},
		"all are lost":      {10, nil, errUnanswered, 3*firstBound + 2*placePause + askBound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, tries := time.Now(), 0
				err := alone().again(t.Context(), func(ctx context.Context) error {
					if tries++; tries <= test.lost {
						<-ctx.Done()
						return ctx.Err()
					}
					return test.then
				})
				if took := time.Since(begun); !errors.Is(err, test.want) || took != test.takes {
					t.Errorf("%v after %s, want %v after %s", err, took, test.want, test.takes)
				}
			})
		})
	}
}
