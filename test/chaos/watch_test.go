package chaos

import (
	"os"
	"strconv"
	"strings"
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

// beat is what was seen at a moment.
type beat struct {
	at time.Time
	// late is by what a timer of ours was late, waited for how long something on the
	// machine had to wait for a processor, since it was started.
	late, waited time.Duration
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
			now := time.Now()
			p.add(beat{now, now.Sub(begun) - tickEvery, waited()})
		}
	}()
	return p
}

func (p *pulse) add(b beat) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beats = append(p.beats, b)
}

func (p *pulse) stop() {
	close(p.quit)
	<-p.done
}

// slack is what a promise may be broken by between two moments, for the machine's sake:
// each of a few steps may come as late as the worst of our timers, and of the time in
// which somebody had to wait for a processor half may have been ours.
func (p *pulse) slack(from, to time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var worst time.Duration
	var first, last beat
	for _, b := range p.beats {
		if b.at.Before(from) {
			first = b
			continue
		}
		if first.at.IsZero() {
			first = b
		}
		last, worst = b, max(worst, b.late)
		if b.at.After(to) {
			break
		}
	}
	return steps*worst + max(last.waited-first.waited, 0)/2
}

// waited is for how long something had to wait for a processor, as the kernel counts it;
// zero where it does not.
func waited() time.Duration {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	some, _, _ := strings.Cut(string(text), "\n")
	_, total, _ := strings.Cut(some, "total=")
	micros, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(micros) * time.Microsecond
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
