package coldstarts

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
)

const (
	// settle is how long a call waits at most for the machine to be quiet: between two
	// calls instances are removed and stems made.
	settle = 250 * time.Millisecond
	// baselineEvery is how many calls there are to one run of a baseline, which says
	// little of a call that starts no container.
	baselineEvery = 10
	// rehearsals is how many calls do not count: they bring code to the node, and the
	// demand for stems up.
	rehearsals = 3
)

// How long a series goes on at most.
const (
	cachedLimit = 70 * time.Second
	remoteLimit = 15 * time.Second
	noStemLimit = 8 * time.Second // of each language
)

// largeCode is the artifact's size, in bytes, above which the bound for code in S3 is
// not meant.
const largeCode = 1 << 20

// bare are the baselines of a language.
type bare struct{ container, start []time.Duration }

// round measures each baseline of a language once.
func (b *bench) round(ctx context.Context, l language, to *bare) error {
	took, err := b.container(ctx, l)
	if err != nil {
		return err
	}
	to.container = append(to.container, took)
	if l.start != nil {
		if took, err = baseline.StartAlone(ctx, b.roots[l.runtime], l.start...); err != nil {
			return err
		}
		to.start = append(to.start, took)
	}
	return nil
}

// show is a baseline cell.
func (b *bench) show(l language, from bare) string {
	text := fmt.Sprintf("%s %s", b.containerName(), table.Millis(sample.Median(from.container)))
	if l.start != nil {
		text += fmt.Sprintf(", start of %s %s", l.label, table.Millis(sample.Median(from.start)))
	}
	return text
}

// first calls a version that has no instance, when the machine is quiet.
func (b *bench) first(ctx context.Context, ref string) (time.Duration, error) {
	if err := errors.Join(b.cluster.AwaitEmpty(ctx), b.quiet(ctx, settle)); err != nil {
		return 0, err
	}
	took, _, err := b.cluster.ColdCall(ctx, ref)
	return took, err
}

// eachLanguage does one round of a series; some rounds begin with the baselines.
func (b *bench) eachLanguage(ctx context.Context, what string, n int, beside []bare, do func(i int, l language) error) error {
	if n%baselineEvery == 0 {
		b.Note("%s: %s, %d rounds", b.kind, what, n)
	}
	for i, l := range b.languages {
		if n%baselineEvery == 0 {
			if err := b.round(ctx, l, &beside[i]); err != nil {
				return err
			}
		}
		if err := do(i, l); err != nil {
			return err
		}
	}
	return nil
}

// cached measures calls whose code is on the node and which find a stem.
func (b *bench) cached(ctx context.Context) error {
	refs := make([]string, len(b.languages))
	for i, l := range b.languages {
		var err error
		if refs[i], _, err = b.deploy(ctx, l, "cached-"+l.runtime, ""); err != nil {
			return err
		}
		for range rehearsals {
			if _, err := b.first(ctx, refs[i]); err != nil {
				return err
			}
		}
	}
	took, beside := make([][]time.Duration, len(refs)), make([]bare, len(refs))
	missed, err := b.cluster.StemMisses(ctx)
	if err != nil {
		return err
	}
	err = repeat(b.Counts.Cached, cachedLimit, func(n int) error {
		return b.eachLanguage(ctx, "code on the node", n, beside, func(i int, _ language) error {
			one, err := b.first(ctx, refs[i])
			took[i] = append(took[i], one)
			return err
		})
	})
	if err != nil {
		return err
	}
	misses, err := b.cluster.StemMisses(ctx)
	if err != nil {
		return err
	}
	b.Note("%s: %d of %d calls found no stem and waited for one", b.kind, misses-missed, len(refs)*len(took[0]))
	for i, l := range b.languages {
		b.rows.times(row{sandbox: b.kind, what: l.label + ", stem, code on the node", against: b.show(l, beside[i])},
			took[i], inMillis(5, 3), inMillis(20, 10))
	}
	return nil
}

// remote measures first calls of versions whose code no node has seen.
func (b *bench) remote(ctx context.Context) error {
	took, size, beside := make([][]time.Duration, len(b.languages)), make([]int64, len(b.languages)), make([]bare, len(b.languages))
	err := repeat(b.Counts.Remote, remoteLimit, func(n int) error {
		return b.eachLanguage(ctx, "code in S3", n, beside, func(i int, l language) error {
			ref, v, err := b.deploy(ctx, l, "remote-"+l.runtime, b.kind+strconv.Itoa(n), client.WithoutLive())
			if err != nil {
				return err
			}
			size[i] = v.CodeBytes
			one, err := b.first(ctx, ref)
			took[i] = append(took[i], one)
			return err
		})
	})
	if err != nil {
		return err
	}
	for i, l := range b.languages {
		bound := inMillis(12, 8)
		what := fmt.Sprintf("%s, stem, code in S3", l.label)
		if size[i] > largeCode {
			bound = nil
			what += fmt.Sprintf(" (%.1f MiB: over the target's 1 MiB)", float64(size[i])/largeCode)
		}
		b.rows.times(row{sandbox: b.kind, what: what, against: b.show(l, beside[i])}, took[i], bound, nil)
	}
	return nil
}

// withoutStems measures calls that have to start a container.
func (b *bench) withoutStems(ctx context.Context) error {
	for _, l := range b.languages {
		b.Note("%s: %s without stem", b.kind, l.label)
		var took []time.Duration
		var beside bare
		ref, _, err := b.deploy(ctx, l, "bare-"+l.runtime, "")
		if err != nil {
			return err
		}
		err = repeat(b.Counts.NoStem, noStemLimit, func(int) error {
			if err := errors.Join(b.cluster.AwaitEmpty(ctx), b.quiet(ctx, settle), b.round(ctx, l, &beside)); err != nil {
				return err
			}
			one, err := b.first(ctx, ref)
			took = append(took, one)
			return err
		})
		if err != nil {
			return err
		}
		container, start := sample.Median(beside.container), sample.Median(beside.start)
		bound := inMillis(1.5*millis(container+start), 1.2*millis(container+start))
		if b.crun == nil {
			bound = inMillis(1.15*millis(container)+millis(start), millis(container+start))
		}
		b.rows.times(row{sandbox: b.kind, what: l.label + ", no stem", against: b.show(l, beside)}, took, bound, nil)
	}
	return nil
}

// python is the language of what is measured in one language only.
func (b *bench) python() language {
	for _, l := range b.languages {
		if l.runtime == functions.RuntimePython {
			return l
		}
	}
	return language{}
}
