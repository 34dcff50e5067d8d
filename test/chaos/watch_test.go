package chaos

import (
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/test/cluster"
)

const (
	// promise is how long after its deadline a call may be without an answer, or a
	// function run.
	promise = time.Second
	// steps is how many processes have to be given a processor, one after the other,
	// until a promise is kept: each may come as late as our own timers did.
	steps     = 5
	tickEvery = 20 * time.Millisecond
	lookEvery = 100 * time.Millisecond
)

// pulse measures how late this machine is with what is due.
type pulse struct {
	quit chan struct{}
	done chan struct{}

	mu    sync.Mutex
	beats []beat // guarded by mu
}

type beat struct {
	at   time.Time
	late time.Duration
}

func startPulse() *pulse {
	p := &pulse{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			begun := time.Now()
			timer := time.NewTimer(tickEvery)
			select {
			case <-p.quit:
				timer.Stop()
				return
			case <-timer.C:
			}
			if late := time.Since(begun) - tickEvery; late > tickEvery/4 {
				p.mu.Lock()
				p.beats = append(p.beats, beat{time.Now(), late})
				p.mu.Unlock()
			}
		}
	}()
	return p
}

func (p *pulse) stop() {
	close(p.quit)
	<-p.done
}

// slack is what a promise may be broken by between two moments, for the machine's sake.
func (p *pulse) slack(from, to time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	worst := time.Duration(0)
	for _, b := range p.beats {
		if b.at.After(from) && b.at.Add(-b.late).Before(to) {
			worst = max(worst, b.late)
		}
	}
	return steps * worst
}

// overrun is a process of a function that ran for too long.
type overrun struct {
	cluster.Instance
	at    time.Time
	slack time.Duration
}

// watch looks at the processes of functions, as the machine's kernel has them.
type watch struct {
	cluster *cluster.Cluster
	pulse   *pulse
	quit    chan struct{}
	done    chan struct{}

	mu    sync.Mutex // guards what follows
	found map[int]overrun
	seen  map[int]bool // processes that were busy once
	err   error
}

func startWatch(c *cluster.Cluster, p *pulse) *watch {
	w := &watch{cluster: c, pulse: p, quit: make(chan struct{}), done: make(chan struct{}), found: map[int]overrun{}, seen: map[int]bool{}}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-w.quit:
				return
			case <-tick.C:
				w.look()
			}
		}
	}()
	return w
}

func (w *watch) look() {
	all, err := w.cluster.Instances()
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = err
		return
	}
	for _, in := range all {
		if in.Busy > 0 {
			w.seen[in.PID] = true
		}
		slack := w.pulse.slack(now.Add(-in.Busy), now)
		if tooLong(in.Busy, slack) {
			w.found[in.PID] = overrun{in, now, slack}
		}
	}
}

// tooLong says whether a function ran beyond its deadline and what is promised.
func tooLong(busy, slack time.Duration) bool { return busy > timeout+promise+slack }

// stop returns what ran for too long, and how many processes ran at all.
func (w *watch) stop() (found []overrun, seen int, err error) {
	close(w.quit)
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.found {
		found = append(found, o)
	}
	return found, len(w.seen), w.err
}
