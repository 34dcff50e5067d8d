package invoker

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// fate asks a node what became of an offer that was just sent.
func (n *node) fate(id wire.InvocationID, number uint64) wire.Fate {
	n.tb.Helper()
	data, err := json.Marshal(wire.InquiryRequest{Offers: []wire.Offer{{Invocation: id, Number: number}}})
	must(n.tb, err)
	answer, err := shared.conn.Request(n.tb.Context(), wire.NodeInquirySubject(n.id), data)
	must(n.tb, err)
	var reply wire.InquiryReply
	must(n.tb, json.Unmarshal(answer, &reply))
	if len(reply.Fates) != 1 {
		n.tb.Fatalf("fates %v", reply.Fates)
	}
	return reply.Fates[0]
}

// offer sends an event, and returns what brings an answer at every call.
func (n *node) offer(req wire.InvokeRequest, event string) (next func() answer) {
	n.tb.Helper()
	frame, err := wire.AppendFrame(nil, req, []byte(event))
	must(n.tb, err)
	answers, err := shared.conn.Ask(wire.NodeInvokeSubject(n.id), frame)
	must(n.tb, err)
	n.tb.Cleanup(answers.Close)
	return func() (a answer) {
		n.tb.Helper()
		m, err := answers.Next(n.tb.Context(), patience)
		must(n.tb, err)
		a.body, err = wire.ParseFrame(m.Data, &a.InvokeReply)
		must(n.tb, err)
		return a
	}
}

// TestInquiry: a node knows of an invocation from its arrival on, and gives its answer
// again to who lost it.
func TestInquiry(t *testing.T) {
	busy := make(chan struct{})
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) {
		<-busy
		return event, nil
	}))
	v, id := n.deploy(), newInvocation()
	if got := n.fate(id, 7); got != wire.FateUnknown {
		t.Errorf("a node that has just started says %s", got)
	}
	next := n.offer(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease(), Offer: 7}, `1`)
	embedtest.Eventually(t, "the node has the call", func() bool { return n.fate(id, 7) == wire.FateUnderWay })
	if got := n.fate(id, 8); got != wire.FateUnknown {
		t.Errorf("of another offer it says %s", got)
	}
	close(busy)
	first := next()
	embedtest.Eventually(t, "the call is over", func() bool { return n.fate(id, 7) == wire.FateAnswered })
	if first.Error != nil || string(first.body) != `1` {
		t.Errorf("answered %s, %v", first.body, first.Error)
	}
	if diff := cmp.Diff(first.InvokeReply, next().InvokeReply); diff != "" {
		t.Errorf("the answer is another one (-first +again):\n%s", diff)
	}
}

// TestOffersThatNeverCame: who was told that an offer never came may make another one;
// the first is not taken any more.
func TestOffersThatNeverCame(t *testing.T) {
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) { return event, nil }))
	n.inv.underWay.open(time.Now().Add(-time.Hour)) // as if it had run for so long
	v, id := n.deploy(), newInvocation()
	for range 2 {
		if got := n.fate(id, 7); got != wire.FateNever {
			t.Errorf("of what never came it says %s", got)
		}
	}
	req := wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease(), Offer: 7}
	late := n.offer(req, `1`)()
	if late.Error == nil || !late.Error.Retryable || late.Instance != "" {
		t.Errorf("it was taken nevertheless: %+v", late)
	}
	req.Offer = 8
	if again := n.offer(req, `1`)(); again.Error != nil {
		t.Error(again.Error)
	}
	if got := n.fate(id, 8); got != wire.FateAnswered && got != wire.FateUnderWay {
		t.Errorf("of what came it says %s", got)
	}
}

// TestInquiriesThatAreNone are not answered: no answer is better than one that ends a call.
func TestInquiriesThatAreNone(t *testing.T) {
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) { return event, nil }))
	many, err := json.Marshal(wire.InquiryRequest{Offers: make([]wire.Offer, wire.MaxInquiry+1)})
	must(t, err)
	for _, text := range []string{`{`, `{}`, `{"invocation":"x"}`, string(many)} {
		answers, err := shared.conn.Ask(wire.NodeInquirySubject(n.id), []byte(text))
		must(t, err)
		t.Cleanup(answers.Close)
		n.fate(newInvocation(), 7) // comes behind
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if m, err := answers.Next(ctx, time.Hour); err == nil {
			t.Errorf("%.40s: answered with %s", text, m.Data)
		}
	}
}

// TestWhatIsRememberedOfCalls: it is bounded, and what was forgotten is not taken for what
// never came.
func TestWhatIsRememberedOfCalls(t *testing.T) {
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	content := make([]byte, maxKeptAnswer+1)
	for name, test := range map[string]struct {
		closed bool
		calls  []int // the sizes of their answers; one ends every millisecond
		asked  uint64
		age    time.Duration
		want   wire.Fate
	}{
		"never opened":                 {true, nil, 1, 0, wire.FateUnknown},
		"sent before the node began":   {false, nil, 1, time.Hour, wire.FateUnknown},
		"never came":                   {false, []int{1, 1}, 9, 0, wire.FateNever},
		"answered":                     {false, []int{1, 1}, 1, 0, wire.FateAnswered},
		"a large answer":               {false, []int{maxKeptAnswer + 1, 1}, 1, 0, wire.FateUnknown},
		"the largest answer":           {false, []int{maxKeptAnswer, 1}, 1, 0, wire.FateAnswered},
		"too many bytes since":         {false, repeat(maxKeptBytes/maxKeptAnswer+1, maxKeptAnswer), 1, 0, wire.FateUnknown},
		"just few enough bytes":        {false, repeat(maxKeptBytes/maxKeptAnswer, maxKeptAnswer), 1, 0, wire.FateAnswered},
		"too many calls since":         {false, repeat(maxPast+1, 1), 1, time.Hour, wire.FateUnknown},
		"just few enough calls":        {false, repeat(maxPast, 1), 1, 0, wire.FateAnswered},
		"never came, many calls since": {false, repeat(maxPast+10, 1), 0xffffff, 0, wire.FateNever},
		"perhaps among the forgotten":  {false, repeat(maxPast+10, 1), 0xffffff, 20 * time.Second, wire.FateUnknown},
		"the rings turn":               {false, repeat(3*maxPast, maxKeptAnswer/2), 3 * maxPast, 0, wire.FateAnswered},
	} {
		t.Run(name, func(t *testing.T) {
			var c calls
			if !test.closed {
				c.open(begin.Add(-time.Minute))
			}
			now := begin
			for i, size := range test.calls {
				now = now.Add(time.Millisecond)
				c.answered(answered{offer: uint64(i) + 1, frame: content[:size:size], at: now})
				if c.past.bytes > maxKeptBytes || len(c.past.calls) > maxPast {
					t.Fatalf("%d bytes of %d calls are kept", c.past.bytes, len(c.past.calls))
				}
			}
			fates, again := c.inquire([]wire.Offer{{Number: test.asked, AgeMillis: test.age.Milliseconds()}}, now)
			if fates[0] != test.want || (len(again) == 1) != (test.want == wire.FateAnswered) {
				t.Errorf("%s with %d answers, want %s", fates[0], len(again), test.want)
			}
		})
	}
}

func repeat(n, size int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = size
	}
	return sizes
}

// TestOffersThatAreVoid are bounded as well.
func TestOffersThatAreVoid(t *testing.T) {
	var v void
	for i := range uint64(3 * maxVoid) {
		v.add(i)
		v.add(i)
	}
	if len(v.numbers) != maxVoid || v.has(2*maxVoid-1) || !v.has(2*maxVoid) || !v.has(3*maxVoid-1) {
		t.Errorf("%d are void", len(v.numbers))
	}
}

// TestCallsOfOneInvocation: an event that was given out twice is cancelled and ended twice.
func TestCallsOfOneInvocation(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			var c calls
			var contexts []context.Context
			var ends []func()
			for i := range 3 {
				ctx, end, taken := c.begin(t.Context(), "x", uint64(i)+1)
				if !taken {
					t.Fatal("not taken")
				}
				contexts, ends = append(contexts, ctx), append(ends, end)
			}
			ends[order[0]]()
			for i := range 3 {
				if got, want := c.has(wire.Offer{Invocation: "x", Number: uint64(i) + 1}), i != order[0]; got != want {
					t.Errorf("%d is under way: %t", i, got)
				}
			}
			c.cancel("x")
			for _, i := range order[1:] {
				if context.Cause(contexts[i]) != errCancelled { //nolint:errorlint // it is that one
					t.Errorf("%d was not cancelled: %v", i, context.Cause(contexts[i]))
				}
			}
			if n := c.end(errGivenUp); n != 2 {
				t.Errorf("%d are under way", n)
			}
			ends[order[1]]()
			ends[order[2]]()
			if !c.none() {
				t.Error("some are under way")
			}
		})
	}
}
