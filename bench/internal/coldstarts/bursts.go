package coldstarts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/sdk/client"
)

const (
	// together is how many functions are called at once.
	together = 20
	// callers call without a pause, each one of its own functions after the other, so
	// that each has no instance any more when its turn comes again.
	callers      = 4
	functionsPer = 8
	// lead is the part of a sustained run that does not count: it uses up the stems
	// that were ready.
	lead = 2 * time.Second
	// refilled is how long the machine may take to be quiet after many calls.
	refilled = 3 * time.Second
	// burstsLimit is how long bursts go on at most.
	burstsLimit = 20 * time.Second
)

// bursts measures many functions that are called for the first time at once, with
// code that is only in S3.
func (b *bench) bursts(ctx context.Context) error {
	l := b.python()
	var all, medians []time.Duration
	var beside bare
	// The first one does not count: it tells of the demand.
	err := repeat(b.Counts.Bursts+1, burstsLimit, func(n int) error {
		b.Note("%s: %d functions at once, %d of %d", b.kind, together, n, b.Counts.Bursts)
		took, err := b.burst(ctx, l, n, &beside)
		if n > 0 && err == nil {
			all, medians = append(all, sample.Quantile(took, 1)), append(medians, sample.Median(took))
		}
		return err
	})
	if err != nil {
		return err
	}
	bound := inMillis(400, 150)
	if b.crun == nil {
		bound = inMillis(3000, 1500)
	}
	b.rows.times(row{
		sandbox: b.kind, what: fmt.Sprintf("%d Python functions never called before, at once, 8 stems, code in S3", together),
		against: b.show(l, beside) + ", the median one answered after " + table.Millis(sample.Median(medians)),
	}, all, bound, nil)
	return nil
}

// burst deploys new functions and calls them when the machine is quiet.
func (b *bench) burst(ctx context.Context, l language, n int, beside *bare) ([]time.Duration, error) {
	refs := make([]string, together)
	for i := range refs {
		var err error
		if refs[i], _, err = b.deploy(ctx, l, fmt.Sprintf("burst-%d", i), fmt.Sprint(b.kind, n, i), client.WithoutLive()); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(b.round(ctx, l, beside), b.cluster.AwaitEmpty(ctx), b.quiet(ctx, refilled)); err != nil {
		return nil, err
	}
	return b.callTogether(ctx, refs)
}

func (b *bench) callTogether(ctx context.Context, refs []string) ([]time.Duration, error) {
	took, errs := make([]time.Duration, len(refs)), make([]error, len(refs))
	var wait sync.WaitGroup
	for i, ref := range refs {
		wait.Go(func() { took[i], _, errs[i] = b.cluster.ColdCall(ctx, ref) })
	}
	wait.Wait()
	return took, errors.Join(errs...)
}

// sustained measures how many cold calls a second go on for a while.
func (b *bench) sustained(ctx context.Context) error {
	l := b.python()
	b.Note("%s: cold calls for %s", b.kind, lead+b.Counts.Sustained)
	var refs [callers][functionsPer]string
	for i := range refs {
		for j := range refs[i] {
			var err error
			if refs[i][j], _, err = b.deploy(ctx, l, fmt.Sprintf("steady-%d-%d", i, j), ""); err != nil {
				return err
			}
		}
	}
	var beside bare
	if err := errors.Join(b.round(ctx, l, &beside), b.cluster.AwaitEmpty(ctx), b.quiet(ctx, refilled)); err != nil {
		return err
	}
	from := time.Now().Add(lead)
	until := from.Add(b.Counts.Sustained)
	took, errs := make([][]time.Duration, callers), make([]error, callers)
	var wait sync.WaitGroup
	for i := range refs {
		wait.Go(func() { took[i], errs[i] = b.callInTurn(ctx, refs[i][:], from, until) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	rate := float64(len(all)) / b.Counts.Sustained.Seconds()
	bound := target{must: 30, stretch: 60, atLeast: true, unit: "/s"}
	if b.crun == nil {
		bound.must, bound.stretch = 5, 8
	}
	b.rows.add(row{
		sandbox: b.kind, n: len(all), against: b.show(l, beside), checks: []check{{"", rate, bound}},
		what: fmt.Sprintf("Python, cold calls without a pause by %d callers: %.1f/s", callers, rate),
		p50:  table.Millis(sample.Median(all)), p99: table.Millis(sample.Quantile(all, 0.99)),
	})
	return nil
}

// callInTurn calls functions one after the other and keeps what ended between two
// moments.
func (b *bench) callInTurn(ctx context.Context, refs []string, from, until time.Time) ([]time.Duration, error) {
	var took []time.Duration
	for n := 0; ; n++ {
		one, _, err := b.cluster.ColdCall(ctx, refs[n%len(refs)])
		if err != nil {
			return nil, err
		}
		switch now := time.Now(); {
		case now.After(until):
			return took, nil
		case now.After(from):
			took = append(took, one)
		}
	}
}
