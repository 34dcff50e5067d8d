package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestInquiry: a call is over when a node says twice in a row that it does not know, or
// nothing at all though the function's time is over, and at once when it never came.
func TestInquiry(t *testing.T) {
	t.Parallel()
	timeout := errors.New("no answer")
	type word struct {
		fate wire.Fate
		err  error
	}
	has, answered, unknown, never := word{fate: wire.FateUnderWay}, word{fate: wire.FateAnswered}, word{fate: wire.FateUnknown}, word{fate: wire.FateNever}
	silence, nobody := word{err: timeout}, word{err: bus.ErrNoResponders}
	for name, test := range map[string]struct {
		words []word
		late  bool
		want  error
	}{
		"on its way":         {[]word{unknown}, true, nil},
		"lost":               {[]word{unknown, unknown}, false, errCallLost},
		"come late":          {[]word{unknown, has, unknown}, true, nil},
		"answered and lost":  {[]word{has, has, unknown, unknown}, false, errCallLost},
		"never came":         {[]word{never}, false, errNeverCame},
		"answered":           {[]word{has, answered, answered, answered, answered}, true, nil},
		"answered in vain":   {[]word{answered, answered, answered, answered, answered}, false, errCallLost},
		"silent early":       {[]word{silence, silence, silence}, false, nil},
		"silent":             {[]word{silence, silence}, true, errNoWord},
		"silent for once":    {[]word{silence, has, silence}, true, nil},
		"none but for a gap": {[]word{unknown, silence, unknown}, false, errCallLost},
		"nobody listens":     {[]word{nobody, nobody, nobody}, true, nil},
	} {
		var q inquiry
		var got error
		for _, w := range test.words {
			if got = q.said(w.fate, w.err, test.late); got != nil {
				break
			}
		}
		if !errors.Is(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// inquiries has a double say what became of the calls that it was offered.
func (c *cluster) inquiries(id wire.NodeID, fate func(wire.Offer) wire.Fate) {
	c.t.Helper()
	if _, err := c.conn.Subscribe(wire.NodeInquirySubject(id), "", func(m bus.Msg) {
		var req wire.InquiryRequest
		var reply wire.InquiryReply
		err := json.Unmarshal(m.Data, &req)
		for _, o := range req.Offers {
			reply.Fates = append(reply.Fates, fate(o))
		}
		var data []byte
		if err == nil {
			data, err = json.Marshal(reply)
		}
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			c.t.Error(err)
		}
	}); err != nil {
		c.t.Fatal(err)
	}
}

// TestLostCall: a call that a node may have answered ends long before the function's time
// is over, and nobody repeats it unasked.
func TestLostCall(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil })
	c.inquiries("a", func(wire.Offer) wire.Fate { return wire.FateUnknown })
	_, err := c.invoke(t.Context(), "{}")
	wantCode(t, err, wire.CodeUnavailable, false)
	if len(n.asked) != 1 {
		t.Errorf("the node was asked %d times", len(n.asked))
	}
}

// TestCallThatNeverCame: what a node did not get, and will not take any more, is sent
// again, under another number.
func TestCallThatNeverCame(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var first atomic.Uint64
	n := c.addNode("a", 1, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		if first.CompareAndSwap(0, req.Offer) {
			return nil, nil // as if it had not come
		}
		return echo(false)(req, event)
	})
	c.inquiries("a", func(o wire.Offer) wire.Fate {
		if o.Number != first.Load() || o.Invocation != id || o.AgeMillis < inquireEvery.Milliseconds() {
			t.Errorf("asked about %+v", o)
		}
		return wire.FateNever
	})
	result, err := c.invoke(t.Context(), "{}")
	if err != nil || string(result.Body) != "{}" {
		t.Errorf("%q, %v", result.Body, err)
	}
	if one, two := (<-n.asked).Offer, (<-n.asked).Offer; one == two || one == 0 || two == 0 {
		t.Errorf("the offers' numbers are %d and %d", one, two)
	}
}

// TestPlaceThatIsNotUsed: the scheduler hears of places that it set aside for nothing,
// because its answer was lost or the call that it placed.
func TestPlaceThatIsNotUsed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var asked atomic.Int64
	if _, err := c.conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) {
		var req wire.PlaceRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			t.Error(err)
		}
		c.placed <- req
		if asked.Add(1) == 1 {
			return // as if the answer were lost
		}
		data, err := json.Marshal(placeOn("gone", "a")(req))
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	// No responders.
	c.addNode("gone", 0, nil)
	c.addNode("a", 0, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil }) // as if it had not come
	c.inquiries("a", func(wire.Offer) wire.Fate { return wire.FateNever })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = c.invoke(ctx, "{}") // how it ends is the affair of other tests
	}()
	for i, want := range []bool{false, true, true, true, false} { // the last one was answered: there is no other node
		if got := embedtest.Receive(t, c.placed).Again; got != want {
			t.Errorf("question %d says again: %t", i, got)
		}
	}
	cancel()
	<-ended
}

// TestSlowCalls: a node that has calls is waited for. It is asked about all of them at once.
func TestSlowCalls(t *testing.T) {
	t.Parallel()
	const calls = 20
	c := newCluster(t)
	release := make(chan struct{})
	subject := wire.NodeInvokeSubject("a")
	c.addNode("a", calls, nil)
	if _, err := c.conn.Subscribe(subject, "", func(m bus.Msg) {
		go func() {
			<-release
			frame, err := wire.AppendFrame(nil, &wire.InvokeReply{Instance: "i1"}, []byte(`1`))
			if err == nil {
				err = m.Respond(frame)
			}
			if err != nil {
				t.Error(err)
			}
		}()
	}); err != nil {
		t.Fatal(err)
	}
	questions := make(chan int, 1000)
	var times atomic.Int64
	if _, err := c.conn.Subscribe(wire.NodeInquirySubject("a"), "", func(m bus.Msg) {
		var req wire.InquiryRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			t.Error(err)
		}
		questions <- len(req.Offers)
		fate := wire.FateUnderWay
		if times.Add(1)%2 == 0 {
			fate = wire.FateUnknown // now and then it does not know
		}
		data, err := json.Marshal(wire.InquiryReply{Fates: slices.Repeat([]wire.Fate{fate}, len(req.Offers))})
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, calls)
	for range calls {
		go func() {
			slow := call("{}", time.Minute)
			slow.Invocation = wire.InvocationID(uuid.NewString())
			_, err := c.Invoke(t.Context(), slow)
			ended <- err
		}()
	}
	for asked := 0; asked < calls; { // all in one question
		asked = embedtest.Receive(t, questions)
	}
	for range 2 * inquireTwice {
		embedtest.Receive(t, questions)
	}
	close(release)
	for range calls {
		if err := embedtest.Receive(t, ended); err != nil {
			t.Error(err)
		}
	}
	embedtest.Eventually(t, "nothing is kept of the calls", func() bool {
		c.inquirers.mu.Lock()
		defer c.inquirers.mu.Unlock()
		return len(c.inquirers.all) == 0
	})
}

// TestManyDoubts: a question is about so many calls at most, and a node that does not
// answer is not asked about more.
func TestManyDoubts(t *testing.T) {
	c := newCluster(t)
	asked := make(chan int, 10)
	c.inquiries("a", func(wire.Offer) wire.Fate { return wire.FateNever })
	if _, err := c.conn.Subscribe(wire.NodeInquirySubject("a"), "", func(m bus.Msg) {
		var req wire.InquiryRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			t.Error(err)
		}
		asked <- len(req.Offers)
	}); err != nil {
		t.Fatal(err)
	}
	const many = wire.MaxInquiry + 10
	doubts, over := make([]*doubt, many), 0
	for i := range doubts {
		doubts[i] = &doubt{invocation: id, offer: uint64(i) + 1, sent: time.Now(), late: time.Now(), end: func(err error) {
			if errors.Is(err, errNeverCame) {
				over++
			}
		}}
	}
	c.askAll(t.Context(), "a", doubts)
	if one, two := embedtest.Receive(t, asked), embedtest.Receive(t, asked); one != wire.MaxInquiry || two != many-one {
		t.Errorf("asked about %d and %d", one, two)
	}
	if over != many {
		t.Errorf("%d of %d calls are over", over, many)
	}
}
