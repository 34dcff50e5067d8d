package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/test/cluster"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	function  = "work"
	instances = 24
	// held is how many calls, and as many events, run for so long when a node is lost.
	held, holdFor = 6, 4 * time.Second
	// around is how long calls go on after a loss.
	around = 3 * time.Second
	// callEvery is the pause between two warm calls.
	callEvery = 20 * time.Millisecond
	callBound = time.Minute
	// settleBound limits getting well between two losses.
	settleBound = 2 * time.Minute
)

// recovery is a run of the benchmark.
type recovery struct {
	cluster *cluster.Cluster
	conn    *bus.Conn

	took   map[string][]time.Duration // by what was waited for
	failed map[string]int             // warm calls, by what was lost
}

func (r *recovery) note(until string, took time.Duration) {
	r.took[until] = append(r.took[until], took)
}

// settle waits until all is well, with warm instances on the nodes.
func (r *recovery) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	if err := r.cluster.AwaitReady(ctx); err != nil {
		return err
	}
	return cluster.Poll(ctx, func() error {
		errs := make([]error, 2*held)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() {
				got, err := r.post(ctx, r.cluster.Gateways[i%2], 200*time.Millisecond)
				if err == nil && got.Status != http.StatusOK {
					err = fmt.Errorf("%d: %s", got.Status, got.Body)
				}
				errs[i] = err
			})
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		id, err := r.accept(ctx, r.cluster.Gateways[0], 0)
		if err == nil {
			_, err = r.end(ctx, id)
		}
		return errors.Join(err, r.placed(ctx))
	})
}

// loss is what became of what ran on a node.
type loss struct{ calls, events []time.Duration }

// ending is how a call that was held ended.
type ending struct {
	status int // 0 for no answer, which is an end as well
	at     time.Time
}

// holdAndLose has calls and events run on all nodes, loses the one on which most of them
// do, and says after what time calls that ran there had an answer, and events ran elsewhere.
func (r *recovery) holdAndLose(ctx context.Context, lose func(victim *cluster.Process) error) (found loss, err error) {
	ends := make([]ending, held)
	var group sync.WaitGroup
	for i := range ends {
		group.Go(func() {
			got, _ := r.post(ctx, r.cluster.Gateways[i%2], holdFor)
			ends[i] = ending{got.Status, time.Now()}
		})
	}
	ids := make([]wire.InvocationID, held)
	for i := range ids {
		if ids[i], err = r.accept(ctx, r.cluster.Gateways[i%2], holdFor); err != nil {
			return found, err
		}
	}
	victim, err := r.awaitBusy(ctx)
	if err != nil {
		return found, err
	}
	lost := time.Now()
	if err := lose(victim); err != nil {
		return found, err
	}
	group.Wait()
	if found.calls, err = answered(ends, lost); err != nil {
		return found, err
	}
	for _, id := range ids {
		rec, err := r.end(ctx, id)
		if err != nil {
			return found, err
		}
		if took, again := ranAgain(rec, lost); again {
			found.events = append(found.events, took)
		}
	}
	return found, nil
}

// answered returns how long after a loss the calls ended that it hit. It fails where a call
// ended before: that one was hit by something else.
func answered(ends []ending, lost time.Time) (took []time.Duration, err error) {
	for _, e := range ends {
		after := e.at.Sub(lost)
		if after < 0 {
			return nil, fmt.Errorf("a call ended with status %d, %s before anything was lost", e.status, -after)
		}
		if e.status != http.StatusOK {
			took = append(took, after)
		}
	}
	return took, nil
}

// ranAgain reports whether an event began to run after a loss, and how long after. The
// record's own beginning is that of its worker's attempt, which looks for a node first.
func ranAgain(rec wire.Record, lost time.Time) (took time.Duration, again bool) {
	began := rec.EndedAt.Add(-time.Duration(rec.RunMicros) * time.Microsecond)
	return began.Sub(lost), began.After(lost)
}

// awaitBusy waits until all that is held runs, and returns the busiest node's invoker.
func (r *recovery) awaitBusy(ctx context.Context) (busiest *cluster.Process, err error) {
	ctx, cancel := context.WithTimeout(ctx, holdFor/2)
	defer cancel()
	err = cluster.Poll(ctx, func() error {
		all, err := r.cluster.Instances()
		if err != nil {
			return err
		}
		total, busy := 0, map[wire.NodeID]int{}
		for _, in := range all {
			if in.Busy > 0 {
				total++
				busy[in.Node]++
			}
		}
		if total < 2*held {
			return fmt.Errorf("%d of %d run", total, 2*held)
		}
		busiest = slices.MaxFunc(r.cluster.Invokers, func(a, b *cluster.Process) int {
			return cmp.Compare(busy[r.cluster.Node(a)], busy[r.cluster.Node(b)])
		})
		return nil
	})
	return busiest, err
}

// warm is a caller of warm instances.
type warm struct {
	quit    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	slowest time.Duration
	failed  int
}

func (r *recovery) startWarm(ctx context.Context, gateways ...*cluster.Process) *warm {
	w := &warm{quit: make(chan struct{})}
	for _, g := range gateways {
		w.running.Go(func() {
			for {
				begun := time.Now()
				got, err := r.post(ctx, g, 0)
				w.mu.Lock()
				w.slowest = max(w.slowest, time.Since(begun))
				if err != nil || got.Status != http.StatusOK {
					w.failed++
				}
				w.mu.Unlock()
				select {
				case <-w.quit:
					return
				case <-time.After(callEvery):
				}
			}
		})
	}
	return w
}

// stop returns what the slowest call took and how many failed.
func (w *warm) stop() (slowest time.Duration, failed int) {
	close(w.quit)
	w.running.Wait()
	return w.slowest, w.failed
}

// post calls the function, which takes as long as it is told.
func (r *recovery) post(ctx context.Context, gateway *cluster.Process, takes time.Duration) (cluster.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	return r.cluster.Invoke(ctx, gateway, function, order(takes), nil)
}

func order(takes time.Duration) []byte {
	return fmt.Appendf(nil, `{"id":"r","millis":%d}`, takes.Milliseconds())
}

// accept sends an event.
func (r *recovery) accept(ctx context.Context, gateway *cluster.Process, takes time.Duration) (wire.InvocationID, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	return r.cluster.Accept(ctx, gateway, function, "", order(takes))
}

// end waits until an event has succeeded, and returns its record.
func (r *recovery) end(ctx context.Context, id wire.InvocationID) (rec wire.Record, err error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	err = cluster.Poll(ctx, func() (err error) {
		rec, err = r.cluster.Record(ctx, r.cluster.Gateways[0], id)
		if err == nil && rec.State != wire.StateSucceeded {
			err = fmt.Errorf("event %s is %q", id, rec.State)
		}
		return err
	})
	return rec, err
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
