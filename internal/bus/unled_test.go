package bus_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
)

// TestUntilLed: a write waits for the stream's next leader, and gives up in the end.
func TestUntilLed(t *testing.T) {
	for name, test := range map[string]struct{ leaderAfter, took time.Duration }{
		"one leads":          {0, 0},
		"one comes":          {bus.UnledBound / 2, bus.UnledBound / 2},
		"none comes in time": {time.Hour, bus.UnledBound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, answered := time.Now(), false
				bus.UntilLed(func() bool {
					answered = time.Since(begun) >= test.leaderAfter
					return answered
				})
				if took := time.Since(begun); took != test.took || answered != (test.leaderAfter <= bus.UnledBound) {
					t.Errorf("after %s it is %t that somebody answered", took, answered)
				}
			})
		})
	}
}
