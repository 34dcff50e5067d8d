package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// sight is what a look at a node shows.
type sight struct {
	state wire.DrainState
	err   error
}

func TestDrainWatch(t *testing.T) {
	t.Parallel()
	drains := sight{state: wire.DrainState{Node: "n1", Ordered: true, Draining: true, Instances: 1}}
	gone := sight{state: wire.DrainState{Node: "n1", Ordered: true, Gone: true}}
	drained := sight{state: wire.DrainState{Node: "n1", Ordered: true, Draining: true, Drained: true}}
	away := sight{err: wire.Errorf(wire.CodeUnavailable, "NATS elects")}
	closed := sight{err: &client.UnreachableError{URL: "http://h", Err: errors.New("refused")}}
	broken := sight{err: errors.New("connection reset by peer")}
	refused := sight{err: wire.Errorf(wire.CodeNotFound, "there is no node n1")}
	const progress = "1 instance, 0 busy; 0 stems"
	for name, test := range map[string]struct {
		sights  []sight // the last one again and again
		timeout time.Duration
		want    string // of the error
		code    int
		took    time.Duration
		told    []string
	}{
		"gateway and NATS are away for a while": {
			[]sight{away, closed, broken, drains, drained}, 0, "", ExitOK, 5 * drainLook,
			[]string{progress, "NATS elects", closed.err.Error(), "connection reset by peer", progress},
		},
		"the node is between two runs": {
			[]sight{gone, gone, drained}, 0, "", ExitOK, 3 * drainLook,
			[]string{progress, "nothing is heard of node n1; it drains when it comes back"},
		},
		"the gateway does not come back": {
			[]sight{closed}, 0, "refused", ExitRetry, drainPatience, []string{progress, closed.err.Error()},
		},
		"the node does not come back": {
			[]sight{gone}, 0, "nothing is heard", ExitRetry, drainPatience,
			[]string{progress, "nothing is heard of node n1; it drains when it comes back"},
		},
		"nor within the timeout": {
			[]sight{gone}, time.Hour, "after 1h0m0s: nothing is heard", ExitRetry, time.Hour,
			[]string{progress, "nothing is heard of node n1; it drains when it comes back"},
		},
		"it takes longer than the timeout": {
			[]sight{drains}, time.Minute, "after 1m0s: 1 instance", ExitRetry, time.Minute, []string{progress},
		},
		"it takes longer than a node may be unseen": {
			append(slices.Repeat([]sight{drains}, 100), drained), 0, "", ExitOK, 101 * drainLook, []string{progress},
		},
		"the answer is no": {[]sight{refused}, time.Hour, "no node", ExitNotFound, drainLook, []string{progress}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told []string
				looks, begun := 0, time.Now()
				_, err := drainWatch{
					look: func(context.Context) (wire.DrainState, error) {
						s := test.sights[min(looks, len(test.sights)-1)]
						looks++
						return s.state, s.err
					},
					tell: func(text string) { told = append(told, text) }, gone: "cancel it", timeout: test.timeout,
				}.wait(t.Context(), drains.state)
				if got := ExitCode(err); got != test.code || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("it ended with %v (%d), want %q (%d)", err, got, test.want, test.code)
				}
				if took := time.Since(begun); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				if diff := cmp.Diff(test.told, told); diff != "" {
					t.Errorf("it told (-want +got):\n%s", diff)
				}
				if asked := slices.Contains(hints(err), "cancel it"); asked != (err != nil && strings.Contains(err.Error(), "nothing is heard")) {
					t.Errorf("hints %q", hints(err))
				}
			})
		})
	}
}
