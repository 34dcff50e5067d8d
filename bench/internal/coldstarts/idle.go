package coldstarts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/load"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
)

const (
	// asleep is how long an instance is left alone before it is woken.
	asleep = time.Second
	// warmCalls is how many calls one after the other say what a warm one takes.
	warmCalls = 20
)

// wakes measures the first call after an instance was idle, beyond a warm one.
func (b *bench) wakes(ctx context.Context) error {
	beyond, warm := make([][]time.Duration, len(b.languages)), make([][]time.Duration, len(b.languages))
	for _, l := range b.languages {
		ref, _, err := b.deploy(ctx, l, "wake-"+l.runtime, "")
		if err == nil {
			err = b.cluster.Grow(ctx, ref, 1)
		}
		if err != nil {
			return err
		}
	}
	pause := time.NewTicker(asleep)
	defer pause.Stop()
	for n := range b.Counts.Wakes {
		if n%baselineEvery == 0 {
			b.Note("%s: waking idle instances, %d of %d", b.kind, n, b.Counts.Wakes)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for i, l := range b.languages {
			target := b.cluster.Target("wake-" + l.runtime)
			calls, err := load.InTurn(ctx, target, 1+warmCalls)
			if err != nil {
				return err
			}
			usual := sample.Median(calls.Latencies[1:])
			beyond[i], warm[i] = append(beyond[i], calls.Latencies[0]-usual), append(warm[i], usual)
		}
	}
	for i, l := range b.languages {
		b.rows.times(row{
			sandbox: b.kind, what: fmt.Sprintf("%s, call after %s idle, beyond a warm one", l.label, asleep),
			against: "warm call " + table.Millis(sample.Median(warm[i])),
		}, beyond[i], inMillis(1, 0), nil)
	}
	return nil
}

// weights measures the memory of idle instances beyond that of as many interpreters.
func (b *bench) weights(ctx context.Context) error {
	for _, l := range b.languages {
		if l.stay == nil {
			continue
		}
		b.Note("%s: weighing %d idle %s instances", b.kind, b.Counts.Idlers, l.label)
		if err := b.weigh(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) weigh(ctx context.Context, l language) error {
	alone, err := b.weighAlone(ctx, l)
	if err != nil {
		return err
	}
	ref, _, err := b.deploy(ctx, l, "idle-"+l.runtime, "")
	if err != nil {
		return err
	}
	// The first instance also costs what the platform does once.
	if err := errors.Join(b.cluster.Grow(ctx, ref, 1), b.quiet(ctx, refilled)); err != nil {
		return err
	}
	before, err := b.occupied()
	if err != nil {
		return err
	}
	for n := range b.Counts.Idlers { // one by one, so that each is made of a stem, as most are
		if err := errors.Join(b.quiet(ctx, settle), b.cluster.Grow(ctx, ref, 2+n)); err != nil {
			return err
		}
	}
	if err := b.quiet(ctx, refilled); err != nil {
		return err
	}
	after, err := b.occupied()
	if err != nil {
		return err
	}
	var inside int64
	n, containers := 0, len(after.inside)-len(before.inside)
	for id, c := range after.inside {
		if _, old := before.inside[id]; !old && c.bound {
			inside += c.bytes
			n++
		}
	}
	if n == 0 || containers <= 0 {
		return fmt.Errorf("no idle %s instance was found", l.label)
	}
	within := float64(inside) / float64(n) / 1e6
	around := float64(after.outside-before.outside) / float64(containers) / 1e6
	beyond := within + around - float64(alone)/1e6
	bound := target{must: 1.5, stretch: 0.7, unit: " MB"}
	if b.crun == nil {
		bound.must, bound.stretch = 8, 5
	}
	b.rows.add(row{
		sandbox: b.kind, n: n, p50: fmt.Sprintf("%.1f MB", beyond), checks: []check{{"", beyond, bound}},
		what:    l.label + ", memory of an idle instance beyond the interpreter's",
		against: fmt.Sprintf("interpreter alone %.1f MB; instance %.1f MB, around it %.1f MB", float64(alone)/1e6, within, around),
	})
	return nil
}
