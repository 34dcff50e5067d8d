package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/test/cluster"
)

const (
	// healWithin is how long after the last fault all must be well.
	healWithin = 10 * time.Second
	// electWithin is what is allowed beyond that where a NATS server was hit: the others
	// elect leaders after 4 to 9 s of silence, which cannot be set, and what was placed by
	// messages that were lost counts as running for some seconds more.
	electWithin = 5 * time.Second
	// A try to find all well begins every tryEvery and may take tryBound, whatever has
	// become of those before it: one that began a moment too early costs no more.
	tryEvery, tryBound = 500 * time.Millisecond, healWithin / 2
	maxTries           = int(tryBound / tryEvery)
	// giveUp ends a seed whose cluster does not heal, and settleWithin the wait for the
	// last event.
	giveUp, settleWithin = 2 * time.Minute, time.Minute
	// calm is how long the load goes on when all is well.
	calm = time.Second
)

// outage is a time in which a process could not answer, by our own doing.
type outage struct {
	process  string
	kind     kind
	from, to time.Time
}

// run is one seed.
type run struct {
	t       *testing.T
	cluster *cluster.Cluster
	faults  []fault
	begun   time.Time
	// alone counts, by process, the ends before the seed that nobody asked for.
	alone map[string]int

	returning sync.WaitGroup // those whose outages are not over

	mu      sync.Mutex // guards what follows
	last    time.Time  // when the last fault ended
	outages []outage
}

func newRun(t *testing.T, c *cluster.Cluster, faults []fault) *run {
	r := &run{t: t, cluster: c, faults: faults, begun: time.Now(), alone: map[string]int{}}
	for _, p := range c.Processes() {
		r.alone[p.Name] = p.EndedAlone()
	}
	return r
}

// play does what the schedule says, and returns when the last fault has ended.
func (r *run) play(ctx context.Context) (last time.Time) {
	r.begun = time.Now()
	r.last = r.begun
	var group sync.WaitGroup
	for _, f := range r.faults {
		group.Go(func() {
			pause(ctx, time.Until(r.begun.Add(f.at)))
			p := r.cluster.Process(f.target)
			from := time.Now()
			err := r.begin(f, p)
			pause(ctx, f.lasts)
			if err = errors.Join(err, r.end(f, p)); err != nil {
				r.t.Errorf("%s: %v", f, err)
			}
			r.ended(time.Now())
			if f.silences() {
				r.returning.Go(func() { r.back(ctx, f.kind, p, from) })
			}
		})
	}
	group.Wait()
	return r.last
}

func (r *run) ended(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.After(r.last) {
		r.last = at
	}
}

// back notes an outage that is over once the process is ready.
func (r *run) back(ctx context.Context, by kind, p *cluster.Process, from time.Time) {
	ctx, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()
	_ = cluster.Poll(ctx, func() error { return p.Ready(ctx) }) // if not, who looks at the health says so
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outages = append(r.outages, outage{p.Name, by, from, time.Now()})
}

// silent are the times in which processes could not answer.
func (r *run) silent() []outage {
	r.returning.Wait()
	return r.outages
}

// deaths lists the processes that ended by themselves, which only a full disk excuses.
func (r *run) deaths() (wrong []string) {
	for _, p := range r.cluster.Processes() {
		filled := slices.ContainsFunc(r.faults, func(f fault) bool { return f.kind == fills && f.target == p.Name })
		if n := p.EndedAlone() - r.alone[p.Name]; n > 0 && !filled {
			wrong = append(wrong, fmt.Sprintf("%s ended by itself, %d times", p.Name, n))
		}
		if err := p.Sane(r.begun); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong
}

// mayHealWithin is how long the cluster may take to be well after the faults.
func (r *run) mayHealWithin() time.Duration {
	for _, f := range r.faults {
		if r.cluster.Process(f.target).Role == natsRole {
			return healWithin + electWithin
		}
	}
	return healWithin
}

// silences says whether the target cannot answer while the fault lasts.
func (f fault) silences() bool { return f.kind == kills || f.kind == pauses }

func (r *run) begin(f fault, p *cluster.Process) error {
	switch f.kind {
	case kills:
		return p.Kill()
	case pauses:
		return p.Pause()
	case cuts:
		peers := make([]*cluster.Host, len(f.peers))
		for i, name := range f.peers {
			peers[i] = r.cluster.Process(name).Host
		}
		return p.Host.Cut(f.way, peers...)
	case slows:
		return p.Host.Slow(f.kilobits)
	case fills:
		return p.FillDisk()
	case shifts:
		return p.ShiftClock(f.shift)
	}
	return fmt.Errorf("nobody knows how to %s", f.kind)
}

func (r *run) end(f fault, p *cluster.Process) error {
	switch f.kind {
	case kills:
		p.Start()
		return nil
	case pauses:
		return p.Resume()
	case cuts:
		return p.Host.Mend()
	case slows:
		return p.Host.Fast()
	case fills:
		return p.FreeDisk()
	case shifts:
		return p.ShiftClock(0)
	}
	return nil
}

// healthy fails while something does not work: a process is not ready, a gateway does not
// answer a call, or an event does not end.
func (r *run) healthy(ctx context.Context, try int) error {
	errs := make([]error, 1+2*len(r.cluster.Gateways))
	var group sync.WaitGroup
	group.Go(func() {
		for _, p := range r.cluster.Processes() {
			if err := p.Ready(ctx); err != nil {
				errs[0] = err
				return
			}
		}
	})
	for i, g := range r.cluster.Gateways {
		o := order{ID: fmt.Sprintf("health-%d-%d-%d", r.begun.UnixNano(), try, i)}
		group.Go(func() {
			bounded, cancel := context.WithTimeout(ctx, tryBound)
			defer cancel()
			got, err := post(bounded, r.cluster, g, echoes, o)
			if err == nil && (got.status != http.StatusOK || !echoed(got.body, o)) {
				err = fmt.Errorf("%d: %s", got.status, got.body)
			}
			if err != nil {
				errs[1+i] = fmt.Errorf("%s: %w", g.Name, err)
			}
		})
		group.Go(func() {
			if err := r.eventEnds(ctx, g, o); err != nil {
				errs[1+len(r.cluster.Gateways)+i] = fmt.Errorf("an event by %s: %w", g.Name, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (r *run) eventEnds(ctx context.Context, g *cluster.Process, o order) error {
	ctx, cancel := context.WithTimeout(ctx, tryBound)
	defer cancel()
	id, err := accept(ctx, r.cluster, g, works, o)
	if err != nil {
		return err
	}
	return cluster.Poll(ctx, func() error { return ended(ctx, r.cluster, g, event{order: o, accepted: id}) })
}

// outcome is what a try found.
type outcome struct {
	at  time.Time
	err error
}

// heal begins every [tryEvery] to look whether all is well, and returns the end of the
// first try that found it so, and what was wrong last. It fails when none did.
func (r *run) heal(ctx context.Context) (well time.Time, wrong, err error) {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	found := make(chan outcome, maxTries)
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for try, under := 0, 0; ; {
		if under < maxTries {
			try, under = try+1, under+1
			n := try
			group.Go(func() {
				err := r.healthy(ctx, n)
				found <- outcome{time.Now(), err}
			})
		}
		for due := false; !due; {
			select {
			case o := <-found:
				if o.err == nil {
					return o.at, wrong, nil
				}
				under, wrong = under-1, o.err
			case <-tick.C:
				due = true
			case <-ctx.Done():
				return time.Now(), wrong, errors.Join(context.Cause(ctx), wrong)
			}
		}
	}
}

// awaitEvents waits until every accepted event has ended, and returns what was wrong.
func (r *run) awaitEvents(ctx context.Context, events []event) (wrong []string) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	next := make(chan event)
	for range 8 {
		group.Go(func() {
			for e := range next {
				gateways, try := r.cluster.Gateways, 0
				err := cluster.Poll(ctx, func() error {
					try++
					return ended(ctx, r.cluster, gateways[try%len(gateways)], e)
				})
				if err != nil {
					mu.Lock()
					wrong = append(wrong, fmt.Sprintf("event %s, %s, accepted at %s: %v", e.ID, e.accepted, e.at.Format(clockFormat), err))
					mu.Unlock()
				}
			}
		})
	}
	for _, e := range events {
		if e.accepted == "" {
			mu.Lock()
			wrong = append(wrong, fmt.Sprintf("event %s was not accepted within %s", e.ID, patience))
			mu.Unlock()
			continue
		}
		next <- e
	}
	close(next)
	group.Wait()
	return wrong
}
