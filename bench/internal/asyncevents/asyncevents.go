// Package asyncevents measures events that are accepted and run later: how many are on
// disk a second before their 202, how many run a second, and how long one takes.
package asyncevents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/cluster"
	"github.com/dayfly-run/dayfly/bench/internal/hello"
	"github.com/dayfly-run/dayfly/bench/internal/load"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
)

const (
	// idle keeps instances for as long as a run may last.
	idle = time.Hour
	// stems is dayfly's own default: no call here looks for one.
	stems = 1
	// name is the function's.
	name = "events-go"
	// instances run it. It does nothing, so that more would only wait.
	instances = 16
	// drainBound limits running what was accepted.
	drainBound = 5 * time.Minute
	// openShare is the part of the most events a second that the open loop sends.
	openShare = 0.25
	// maxRecords is how many records one question brings; see sdk/client.
	maxRecords = 1000
)

// Options say how long to measure.
type Options struct {
	Site cluster.Site
	// Rounds is n: how often each rate is measured, each time for Segment.
	Rounds  int
	Segment time.Duration
	// OpenFor is how long the run at a fixed rate lasts.
	OpenFor time.Duration
	// Clients is how many send events in closed loops.
	Clients int
	Out     io.Writer
	// Note tells how far it is.
	Note func(format string, args ...any)
}

// Run prints the tables of events. What it deploys stays in the site.
func Run(ctx context.Context, o Options) error {
	e2e := table.Table{
		Title:   fmt.Sprintf("Events of %d clients through a function that does nothing, and calls of it by %d clients for as many instances, medians of n = %d rounds of %s", o.Clients, instances, o.Rounds, o.Segment),
		Columns: []string{"what", "each second", "÷ warm calls", "must", "met"},
	}
	perSecond, err := o.oneProcess(ctx, &e2e)
	if err != nil {
		return err
	}
	if err := o.apart(ctx, &e2e); err != nil {
		return err
	}
	if err := e2e.Print(o.Out); err != nil {
		return err
	}
	return o.latencies(ctx, perSecond*openShare)
}

// up starts dayfly in one process with the function warm.
func (o Options) up(ctx context.Context) (*cluster.Cluster, error) {
	o.Note("events: starting dayfly up")
	c, err := o.Site.Up(ctx, cluster.Node{Idle: idle, Stems: stems})
	if err != nil {
		return nil, err
	}
	if _, err = c.Deploy(ctx, hello.Copy{Runtime: functions.RuntimeGo, Name: name}); err == nil {
		err = o.warmUp(ctx, c)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// warmUp starts instances and keeps them busy for a round's time that nobody counts.
func (o Options) warmUp(ctx context.Context, c *cluster.Cluster) error {
	if err := c.Grow(ctx, name, instances); err != nil {
		return err
	}
	_, err := load.Closed(ctx, c.Target(name), instances, o.Segment)
	return err
}

// async is what sends the function events.
func async(c *cluster.Cluster) load.Target {
	t := c.Target(name)
	t.Async = true
	return t
}

// oneProcess measures events that are accepted and run at once by `dayfly up`, in turn
// with calls, and returns the events a second.
func (o Options) oneProcess(ctx context.Context, t *table.Table) (perSecond float64, err error) {
	c, err := o.up(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	var calls, events, ratios []float64
	ended, err := c.EventsEnded(ctx)
	if err != nil {
		return 0, err
	}
	for round := range o.Rounds {
		o.Note("events: one process, round %d of %d", round+1, o.Rounds)
		warm, err := load.Closed(ctx, c.Target(name), instances, o.Segment)
		if err != nil {
			return 0, fmt.Errorf("warm calls: %w", err)
		}
		begun := time.Now()
		accepted, err := load.Closed(ctx, async(c), o.Clients, o.Segment)
		if err != nil {
			return 0, fmt.Errorf("accept events: %w", err)
		}
		ended += len(accepted.Latencies)
		if err := c.AwaitEvents(ctx, drainBound, ended); err != nil {
			return 0, err
		}
		rate := float64(len(accepted.Latencies)) / time.Since(begun).Seconds()
		calls, events, ratios = append(calls, warm.PerSecond()), append(events, rate), append(ratios, rate/warm.PerSecond())
	}
	t.Row("warm calls, one process", table.Rate(sample.Median(calls)), "1.00", "", "")
	must, met := (&table.Bound{Limit: 0.5, AtLeast: true, Unit: " × warm calls"}).Show(sample.Median(ratios))
	t.Row("events accepted and run, one process", table.Rate(sample.Median(events)), table.Ratio(sample.Median(ratios)), must, met)
	return sample.Median(events), nil
}

// apart measures accepting alone, with no events worker, in turn with plain publishing,
// and then how fast a worker runs what has gathered.
func (o Options) apart(ctx context.Context, t *table.Table) (err error) {
	o.Note("events: starting the roles apart")
	c, err := o.Site.Apart(ctx, cluster.Node{Idle: idle, Stems: stems})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := o.warmUp(ctx, c); err != nil {
		return err
	}
	waiting, err := o.accepts(ctx, c)
	if err != nil {
		return err
	}
	var calls []float64
	for range o.Rounds {
		warm, err := load.Closed(ctx, c.Target(name), instances, o.Segment)
		if err != nil {
			return fmt.Errorf("warm calls: %w", err)
		}
		calls = append(calls, warm.PerSecond())
	}
	o.Note("events: running the %d that wait", waiting)
	if err := c.StartEvents(); err != nil {
		return err
	}
	first, last := waiting/10, waiting-waiting/10 // the worker's start and the last stragglers are no rate
	if err := c.AwaitEvents(ctx, drainBound, first); err != nil {
		return err
	}
	begun := time.Now()
	from, err := c.EventsEnded(ctx)
	if err != nil {
		return err
	}
	if err := c.AwaitEvents(ctx, drainBound, last); err != nil {
		return err
	}
	to, err := c.EventsEnded(ctx)
	if err != nil {
		return err
	}
	rate := float64(to-from) / time.Since(begun).Seconds()
	warm := sample.Median(calls)
	t.Row("warm calls, roles apart", table.Rate(warm), "1.00", "", "")
	must, met := (&table.Bound{Limit: 0.5, AtLeast: true, Unit: " × warm calls"}).Show(rate / warm)
	t.Row(fmt.Sprintf("%d of %d events that waited, roles apart, one worker", to-from, waiting), table.Rate(rate), table.Ratio(rate/warm), must, met)
	return c.AwaitEvents(ctx, drainBound, waiting)
}

// accepts prints the table of accepting, and returns how many events wait after it.
func (o Options) accepts(ctx context.Context, c *cluster.Cluster) (waiting int, err error) {
	plain, err := openPublisher(ctx, c.NATS())
	if err != nil {
		return 0, err
	}
	defer plain.conn.Close()
	var base, taken figures
	var ratios []float64
	for round := range o.Rounds {
		o.Note("events: accepting, round %d of %d", round+1, o.Rounds)
		published, err := plain.closed(ctx, o.Clients, o.Segment)
		if err != nil {
			return 0, err
		}
		accepted, err := load.Closed(ctx, async(c), o.Clients, o.Segment)
		if err != nil {
			return 0, fmt.Errorf("accept events: %w", err)
		}
		waiting += len(accepted.Latencies)
		base.add(published)
		taken.add(accepted)
		ratios = append(ratios, accepted.PerSecond()/published.PerSecond())
	}
	t := table.Table{
		Title:   fmt.Sprintf("Accepting events, each on disk before its answer, roles apart, nobody runs them, %d clients, medians of n = %d rounds of %s", o.Clients, o.Rounds, o.Segment),
		Columns: []string{"what", "p50", "p99", "each second", "÷ publish", "must", "met"},
	}
	must, met := (&table.Bound{Limit: 4000, AtLeast: true, Unit: "/s"}).Show(sample.Median(taken.rate))
	t.Row(append(append([]string{"JetStream, sync always, one publish each"}, base.cells()...), "1.00", "", "")...)
	t.Row(append(append([]string{"gateway, 202 over HTTP"}, taken.cells()...), table.Ratio(sample.Median(ratios)), must, met)...)
	return waiting, t.Print(o.Out)
}

// figures are the rounds of one row.
type figures struct {
	p50, p99 []time.Duration
	rate     []float64
}

func (f *figures) add(r load.Result) {
	f.p50 = append(f.p50, sample.Quantile(r.Latencies, 0.5))
	f.p99 = append(f.p99, sample.Quantile(r.Latencies, 0.99))
	f.rate = append(f.rate, r.PerSecond())
}

func (f *figures) cells() []string {
	return []string{table.Micros(sample.Median(f.p50)), table.Micros(sample.Median(f.p99)), table.Rate(sample.Median(f.rate))}
}
