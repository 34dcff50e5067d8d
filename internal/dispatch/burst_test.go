package dispatch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// limitedScheduler places on node "a" until there are so many instances.
func (c *cluster) limitedScheduler(limit int) (placed, asked *atomic.Int64) {
	placed, asked = new(atomic.Int64), new(atomic.Int64)
	c.addScheduler(func(wire.PlaceRequest) wire.PlaceReply {
		asked.Add(1)
		if placed.Load() >= int64(limit) {
			return wire.PlaceReply{Error: wire.Errorf(wire.CodeThrottled, "all of %d instances are there", limit)}
		}
		return wire.PlaceReply{Node: "a", Lease: wire.LeaseID(fmt.Sprint("l", placed.Add(1))), Epoch: 7}
	})
	return placed, asked
}

// slowNode is a node "a" whose answers come from goroutines of their own, after
// takes, counted from when it has begun to work. It counts the calls that run at once.
func (c *cluster) slowNode(takes time.Duration, from <-chan struct{}) (most *atomic.Int64) {
	c.t.Helper()
	most = new(atomic.Int64)
	var running atomic.Int64
	var answering sync.WaitGroup
	c.t.Cleanup(answering.Wait)
	_, err := c.conn.Subscribe(wire.NodeInvokeSubject("a"), "", func(m bus.Msg) {
		answering.Go(func() {
			now := running.Add(1)
			for old := most.Load(); now > old; old = most.Load() {
				if most.CompareAndSwap(old, now) {
					break
				}
			}
			select {
			case <-from:
			case <-c.t.Context().Done():
			}
			<-time.After(takes)
			running.Add(-1)
			frame, err := wire.AppendFrame(nil, &wire.InvokeReply{Node: "a", Instance: "i1", StateSeq: 1 << 40}, []byte("{}"))
			if err == nil {
				err = m.Respond(frame)
			}
			if err != nil {
				c.t.Error(err)
			}
		})
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.addNode("a", 0, nil)
	return most
}

// TestSimultaneousFirstCalls of a function never called before are all answered.
func TestSimultaneousFirstCalls(t *testing.T) {
	c := newCluster(t)
	placed, asked := c.limitedScheduler(5)
	all := make(chan struct{})
	most := c.slowNode(2*time.Millisecond, all)
	var calls sync.WaitGroup
	for range 500 {
		calls.Go(func() {
			if _, err := c.invoke(t.Context(), "{}"); err != nil {
				t.Error(err)
			}
		})
	}
	embedtest.Eventually(t, "all others wait", func() bool { return c.Waiting() == 495 })
	close(all)
	calls.Wait()
	if placed.Load() != 5 || most.Load() > 5 || asked.Load() > 10 {
		t.Errorf("%d instances, %d calls at once, the scheduler was asked %d times", placed.Load(), most.Load(), asked.Load())
	}
	if n := c.waits.count(EndServed); n < 495 || c.Waiting() != 0 {
		t.Errorf("%d calls waited, %d do", n, c.Waiting())
	}
}

// TestTooManyCallsAtOnce: those beyond the bound are refused at once, the others run.
func TestTooManyCallsAtOnce(t *testing.T) {
	c := newCluster(t)
	c.limitedScheduler(5)
	working := make(chan struct{})
	close(working)
	c.slowNode(10*time.Millisecond, working)
	var served, refusals atomic.Int64
	var calls sync.WaitGroup
	for range 3 * wire.MinWaiting {
		calls.Go(func() {
			_, err := c.invoke(t.Context(), "{}")
			switch e := wire.AsError(err); {
			case err == nil:
				served.Add(1)
			case e.Code == wire.CodeThrottled && e.RetryAfterMillis >= 1000 && e.RetryAfterMillis <= 60_000:
				refusals.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if served.Load() < wire.MinWaiting || served.Load()+refusals.Load() != 3*wire.MinWaiting || int64(c.waits.count(EndFull)) != refusals.Load() {
		t.Errorf("%d calls were served, %d refused", served.Load(), refusals.Load())
	}
}

// TestRefusedLargeEvents leave nothing in S3, and go there once at most.
func TestRefusedLargeEvents(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn())
	_, err := c.Invoke(t.Context(), call(string(make([]byte, 2<<20)), patience))
	wantCode(t, err, wire.CodeNoCapacity, true)
	if n := len(c.placed); n < 2 {
		t.Errorf("the scheduler was asked %d times", n)
	}
	if err := c.Stop(context.Background()); err != nil { // waits for clean-ups
		t.Fatal(err)
	}
	if found, err := c.store.Exists(t.Context(), wire.RequestKey(id)); found || err != nil {
		t.Errorf("the claim check is there: %t, %v", found, err)
	}
}
