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
