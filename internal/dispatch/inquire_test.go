package dispatch

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// TestInquiry: a call is over when a node says twice in a row that it has none such, or
// nothing at all though the function's time is over.
func TestInquiry(t *testing.T) {
	t.Parallel()
	timeout := errors.New("no answer")
	type word struct {
		underWay bool
		err      error
	}
	has, none, silence, nobody := word{underWay: true}, word{}, word{err: timeout}, word{err: bus.ErrNoResponders}
	for name, test := range map[string]struct {
		words []word
		late  bool
		want  error
	}{
		"on its way":         {[]word{none}, true, nil},
		"lost":               {[]word{none, none}, false, errCallLost},
		"come late":          {[]word{none, has, none}, true, nil},
		"answered and lost":  {[]word{has, has, none, none}, false, errCallLost},
		"silent early":       {[]word{silence, silence, silence}, false, nil},
		"silent":             {[]word{silence, silence}, true, errNoWord},
		"silent for once":    {[]word{silence, has, silence}, true, nil},
		"none but for a gap": {[]word{none, silence, none}, false, errCallLost},
		"nobody listens":     {[]word{nobody, nobody, nobody}, true, nil},
	} {
		var q inquiry
		var got error
		for _, w := range test.words {
			got = q.said(w.underWay, w.err, test.late)
		}
		if !errors.Is(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// inquiries has a double say whether it has a call, and counts the questions.
func (c *cluster) inquiries(id wire.NodeID, underWay func(asked int64) bool) {
	c.t.Helper()
	var asked atomic.Int64
	if _, err := c.conn.Subscribe(wire.NodeInquirySubject(id), "", func(m bus.Msg) {
		data, err := json.Marshal(wire.InquiryReply{UnderWay: underWay(asked.Add(1))})
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

// TestLostCall: a call that a node never got, or whose answer went astray, ends long
// before the function's time is over, and nobody repeats it unasked.
func TestLostCall(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil })
	c.inquiries("a", func(int64) bool { return false })
	_, err := c.invoke(t.Context(), "{}")
	wantCode(t, err, wire.CodeUnavailable, false)
	if len(n.asked) != 1 {
		t.Errorf("the node was asked %d times", len(n.asked))
	}
}

// TestSlowCall: a node that has the call is waited for.
func TestSlowCall(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	asked := make(chan struct{})
	c.addNode("a", 1, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		<-asked
		return echo(false)(req, event)
	})
	c.inquiries("a", func(n int64) bool {
		if n == 2*inquireTwice {
			close(asked)
		}
		return n%2 == 0 // now and then it does not know
	})
	if result, err := c.invoke(t.Context(), "{}"); err != nil || string(result.Body) != "{}" {
		t.Errorf("%q, %v", result.Body, err)
	}
}
