// Package warmcalls measures calls that find an instance waiting, against a plain
// HTTP server and a reverse proxy in the same rounds.
package warmcalls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/cluster"
	"github.com/dayfly-run/dayfly/bench/internal/hello"
	"github.com/dayfly-run/dayfly/bench/internal/load"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
)

// idle keeps instances for as long as a run may last.
const idle = time.Hour

// stems is dayfly's own default: no call here looks for one.
const stems = 1

// Options say how long to measure.
type Options struct {
	Site cluster.Site
	// Rounds is n: how often each figure is measured, each time for Segment.
	Rounds  int
	Segment time.Duration
	// OpenFor is how long each run at a fixed rate lasts.
	OpenFor time.Duration
	// Clients are the numbers of clients in closed loops, from small to large.
	Clients []int
	Out     io.Writer
	// Note tells how far it is.
	Note func(format string, args ...any)
}

// subject is one thing that answers.
type subject struct {
	name    string
	target  load.Target
	clients int // most clients at once
	// latency and rate are what the ratios to B1 must be, by number of clients.
	latency, rate map[int]*table.Bound
}

// figures are the rounds of one subject with one number of clients.
type figures struct {
	p50, p90, p99           []time.Duration
	rate                    []float64
	latencyRatio, rateRatio []float64
}

// baselines are the two servers beside Dayfly.
type baselines struct{ hello, proxy *baseline.Child }

// Run prints the tables of warm calls: first with all roles in one process, then
// with each in its own. What it deploys stays in the site.
func Run(ctx context.Context, o Options) (err error) {
	var b baselines
	if b.hello, err = baseline.StartHello(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.hello.Stop()) }()
	if b.proxy, err = baseline.StartProxy(ctx, b.hello.Address.HTTP); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.proxy.Stop()) }()
	if err := o.oneProcess(ctx, b); err != nil {
		return err
	}
	return o.apart(ctx, b)
}

func ratioAtMost(r float64) *table.Bound { return &table.Bound{Limit: r, Unit: " × B1"} }
func ratioAtLeast(r float64) *table.Bound {
	return &table.Bound{Limit: r, AtLeast: true, Unit: " × B1"}
}

func (b baselines) subjects() []subject {
	return []subject{
		{name: "B0: net/http", target: load.Target{Addr: b.hello.Address.HTTP, Path: "/"}, clients: hello.MaxInstances},
		{name: "B1: ReverseProxy", target: load.Target{Addr: b.proxy.Address.HTTP, Path: "/"}, clients: hello.MaxInstances},
	}
}

// proxyAt is the place of B1 among the subjects.
const proxyAt = 1

func (o Options) most() int { return o.Clients[len(o.Clients)-1] }

// oneProcess measures `dayfly up`.
func (o Options) oneProcess(ctx context.Context, b baselines) (err error) {
	o.Note("starting dayfly up")
	c, err := o.Site.Up(ctx, cluster.Node{Idle: idle, Stems: stems})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	subjects := append(b.subjects(),
		subject{
			name: "Dayfly, Go", target: c.Target("warm-go"), clients: o.most(),
			latency: map[int]*table.Bound{1: ratioAtMost(1)},
			rate:    map[int]*table.Bound{16: ratioAtLeast(0.8), 64: ratioAtLeast(1)},
		},
		subject{
			name: "Dayfly, Python", target: c.Target("warm-python"), clients: 16,
			rate: map[int]*table.Bound{16: ratioAtLeast(0.3)},
		},
		subject{
			name: "Dayfly, Node.js", target: c.Target("warm-node"), clients: 16,
			rate: map[int]*table.Bound{16: ratioAtLeast(0.3)},
		},
	)
	for _, runtime := range []string{functions.RuntimeGo, functions.RuntimePython, functions.RuntimeNode} {
		instances := 16
		if runtime == functions.RuntimeGo {
			instances = o.most()
		}
		o.Note("deploying and warming %d %s instances", instances, runtime)
		if _, err := c.Deploy(ctx, hello.Copy{Runtime: runtime, Name: "warm-" + runtime}); err != nil {
			return err
		}
		if err := o.warmUp(ctx, c, "warm-"+runtime, instances); err != nil {
			return err
		}
	}
	return o.measure(ctx, "one process", subjects, o.Clients)
}

// apart measures each role in a process of its own.
func (o Options) apart(ctx context.Context, b baselines) (err error) {
	o.Note("starting the roles apart")
	c, err := o.Site.Apart(ctx, cluster.Node{Idle: idle, Stems: stems})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	clients := o.Clients[:min(2, len(o.Clients))] // no target for more
	if err := o.warmUp(ctx, c, "warm-go", clients[len(clients)-1]); err != nil {
		return err
	}
	subjects := append(b.subjects(), subject{
		name: "Dayfly, Go", target: c.Target("warm-go"), clients: clients[len(clients)-1],
		latency: map[int]*table.Bound{1: ratioAtMost(1.8)},
	})
	return o.measure(ctx, "four roles and NATS in processes of their own", subjects, clients)
}

// warmUp starts instances and keeps them busy for two rounds' time that nobody
// counts: compilers that work while the program runs get to know the code.
func (o Options) warmUp(ctx context.Context, c *cluster.Cluster, name string, instances int) error {
	if err := c.Grow(ctx, name, instances); err != nil {
		return err
	}
	_, err := load.Closed(ctx, c.Target(name), instances, 2*o.Segment)
	return err
}

// measure prints the closed loops and then, at half the rate that they showed, the
// open ones.
func (o Options) measure(ctx context.Context, how string, subjects []subject, clients []int) error {
	const dayflyAt = proxyAt + 1
	closed := table.Table{
		Title:   fmt.Sprintf("Warm calls, %s, closed loop, medians of n = %d rounds of %s", how, o.Rounds, o.Segment),
		Columns: []string{"what", "clients", "p50", "p90", "p99", "calls/s", "p50 ÷ B1", "calls/s ÷ B1", "must", "met"},
	}
	var perSecond float64
	for _, n := range clients {
		o.Note("%s, closed loop, %d clients", how, n)
		all, err := o.rounds(ctx, subjects, n)
		if err != nil {
			return err
		}
		for i, s := range subjects {
			f := all[i]
			if f == nil {
				continue
			}
			latency, rate := sample.Median(f.latencyRatio), sample.Median(f.rateRatio)
			must, met := s.latency[n].Show(latency)
			if s.latency[n] == nil {
				must, met = s.rate[n].Show(rate)
			}
			closed.Row(s.name, fmt.Sprint(n), table.Micros(sample.Median(f.p50)), table.Micros(sample.Median(f.p90)),
				table.Micros(sample.Median(f.p99)), table.Rate(sample.Median(f.rate)), table.Ratio(latency), table.Ratio(rate), must, met)
		}
		perSecond = max(perSecond, sample.Median(all[dayflyAt].rate))
	}
	if err := closed.Print(o.Out); err != nil {
		return err
	}
	return o.open(ctx, how, subjects[proxyAt:dayflyAt+1], perSecond/2)
}

// rounds measures the subjects in turn, round by round, beginning with another one
// each time. Ratios are of figures of the same round.
func (o Options) rounds(ctx context.Context, subjects []subject, clients int) ([]*figures, error) {
	all := make([]*figures, len(subjects))
	for round := range o.Rounds {
		results := make([]load.Result, len(subjects))
		for k := range subjects {
			i := (round + k) % len(subjects)
			s := subjects[i]
			if clients > s.clients {
				continue
			}
			var err error
			if results[i], err = load.Closed(ctx, s.target, clients, o.Segment); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		base := results[proxyAt]
		for i, r := range results {
			if len(r.Latencies) == 0 {
				continue
			}
			if all[i] == nil {
				all[i] = &figures{}
			}
			all[i].add(r, base)
		}
	}
	return all, nil
}

func (f *figures) add(r, base load.Result) {
	p50 := sample.Quantile(r.Latencies, 0.5)
	f.p50 = append(f.p50, p50)
	f.p90 = append(f.p90, sample.Quantile(r.Latencies, 0.9))
	f.p99 = append(f.p99, sample.Quantile(r.Latencies, 0.99))
	f.rate = append(f.rate, r.PerSecond())
	f.latencyRatio = append(f.latencyRatio, float64(p50)/float64(sample.Quantile(base.Latencies, 0.5)))
	f.rateRatio = append(f.rateRatio, r.PerSecond()/base.PerSecond())
}

// open measures B1 and Dayfly at the same fixed rate, in turn.
func (o Options) open(ctx context.Context, how string, subjects []subject, perSecond float64) error {
	o.Note("%s, open loop, %.0f calls/s", how, perSecond)
	t := table.Table{
		Title: fmt.Sprintf("Warm calls, %s, open loop at %.0f calls/s (half of what Dayfly did), latency from the intended start, one run of %s each",
			how, perSecond, o.OpenFor),
		Columns: []string{"what", "calls", "p50", "p90", "p99", "max", "p99 ÷ B1"},
	}
	var base time.Duration
	connections := subjects[len(subjects)-1].clients // one for each instance
	for _, s := range subjects {
		r, err := load.Open(ctx, s.target, connections, perSecond, o.OpenFor)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		p99 := sample.Quantile(r.Latencies, 0.99)
		if base == 0 {
			base = p99
		}
		t.Row(s.name, fmt.Sprint(len(r.Latencies)), table.Micros(sample.Quantile(r.Latencies, 0.5)),
			table.Micros(sample.Quantile(r.Latencies, 0.9)), table.Micros(p99),
			table.Micros(sample.Quantile(r.Latencies, 1)), table.Ratio(float64(p99)/float64(base)))
	}
	return t.Print(o.Out)
}
