// Package coldstarts measures the first calls of functions that were never called,
// against `docker run` of the same root file systems in the same rounds.
package coldstarts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/cluster"
	"github.com/dayfly-run/dayfly/bench/internal/hello"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
)

// idle ends an instance soon after its call, so that the next cold call finds the
// node empty. A round waits for that.
const idle = 200 * time.Millisecond

// together is how many never-called functions are called at once, and togetherMost
// how long all their answers may take, in milliseconds.
const (
	together     = 20
	togetherMost = 3000
)

// cachedMost and remoteMost bound the median of a cold call that finds a stem, with
// its code on the node and only in S3, in milliseconds. The second is meant for code
// of less than 1 MiB, which the Go function's is not.
const (
	cachedMost = 5
	remoteMost = 12
)

// Options say how long to measure.
type Options struct {
	Site cluster.Site
	// Rounds is n, how often each figure is measured; Bursts how often functions
	// are called at once.
	Rounds, Bursts int
	Out            io.Writer
	// Note tells how far it is.
	Note func(format string, args ...any)
}

// language is a runtime and the command that shows how long it takes to start.
type language struct {
	runtime, label string
	// start prints a byte in that runtime; nil when there is no interpreter.
	start []string
	image string
}

func languages() []language {
	return []language{
		{runtime: functions.RuntimePython, label: "Python", start: []string{"python3", "-c", "print(1)"}},
		{runtime: functions.RuntimeNode, label: "Node.js", start: []string{"node", "-e", "console.log(1)"}},
		{runtime: functions.RuntimeGo, label: "Go"},
		{runtime: functions.RuntimeProvided, label: "provided (shell)"},
	}
}

// series are the figures of one language.
type series struct {
	run, runStart      []time.Duration // docker run of echo, and of the interpreter
	cached, remote     []time.Duration // first calls
	cachedBy, remoteBy []time.Duration // the part that the instance's start took
}

// bench is one run.
type bench struct {
	Options
	cluster   *cluster.Cluster
	languages []language
	series    []series
	command   []time.Duration // starting the docker command line alone
}

// Run prints the tables of cold starts.
func Run(ctx context.Context, o Options) (err error) {
	o.Note("starting dayfly up")
	c, err := o.Site.Up(ctx, idle)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	b := &bench{Options: o, cluster: c, languages: languages()}
	b.series = make([]series, len(b.languages))
	for i, l := range b.languages {
		if b.languages[i].image, err = baseline.Image(ctx, l.runtime); err != nil {
			return err
		}
	}
	if err := b.sequential(ctx); err != nil {
		return err
	}
	return b.burst(ctx)
}

// sequential measures one first call at a time.
func (b *bench) sequential(ctx context.Context) error {
	for i, l := range b.languages {
		// Called once, so that its code is in the node's cache: each further version
		// with the same code is one that was never called.
		b.Note("preparing the %s functions", l.runtime)
		f := hello.Copy{Runtime: l.runtime, Name: "cold-" + l.runtime}
		version, err := b.cluster.Deploy(ctx, f)
		if err != nil {
			return err
		}
		if _, _, err := b.firstCall(ctx, f.Name, version); err != nil {
			return err
		}
		for round := range b.Rounds {
			b.Note("%s, round %d of %d", l.runtime, round+1, b.Rounds)
			if err := b.round(ctx, &b.series[i], l, f, round); err != nil {
				return err
			}
			took, err := baseline.DockerCommand(ctx)
			if err != nil {
				return err
			}
			b.command = append(b.command, took)
		}
	}
	t := table.Table{
		Title:   fmt.Sprintf("Cold calls one at a time, Docker sandbox, stems as demand makes them, gateway to first byte, n = %d interleaved rounds", b.Rounds),
		Columns: []string{"what", "p50", "p90", "max", "of it instance start, p50", "p50 ÷ D0", "must", "met"},
	}
	for i, l := range b.languages {
		b.series[i].rows(&t, l)
	}
	t.Row("the docker command alone (part of each D0)", table.Millis(sample.Median(b.command)), table.Millis(sample.Quantile(b.command, 0.9)),
		table.Millis(sample.Quantile(b.command, 1)), "", "", "", "")
	return t.Print(b.Out)
}

// round measures each figure of a language once.
func (b *bench) round(ctx context.Context, s *series, l language, f hello.Copy, round int) error {
	took, err := baseline.DockerRun(ctx, l.image, "/bin/echo", "1")
	if err != nil {
		return err
	}
	s.run = append(s.run, took)
	if l.start != nil {
		if took, err = baseline.DockerRun(ctx, l.image, l.start...); err != nil {
			return err
		}
		s.runStart = append(s.runStart, took)
	}
	if err := b.measure(ctx, f, &s.cached, &s.cachedBy); err != nil {
		return err
	}
	f.Name += "-s3"
	f.Salt = strconv.Itoa(round)
	return b.measure(ctx, f, &s.remote, &s.remoteBy)
}

// measure deploys a version and calls it for the first time.
func (b *bench) measure(ctx context.Context, f hello.Copy, took, start *[]time.Duration) error {
	version, err := b.cluster.Deploy(ctx, f)
	if err != nil {
		return err
	}
	whole, part, err := b.firstCall(ctx, f.Name, version)
	*took, *start = append(*took, whole), append(*start, part)
	return err
}

// firstCall calls a version and waits until its instance is gone again.
func (b *bench) firstCall(ctx context.Context, name string, version int) (took, start time.Duration, err error) {
	if took, start, err = b.cluster.ColdCall(ctx, fmt.Sprintf("%s:%d", name, version)); err != nil {
		return 0, 0, err
	}
	return took, start, b.cluster.AwaitEmpty(ctx)
}

// rows shows a language's figures.
func (s *series) rows(t *table.Table, l language) {
	run := sample.Median(s.run)
	add := func(what string, took, start []time.Duration, must, met string) {
		part := ""
		if start != nil {
			part = table.Millis(sample.Median(start))
		}
		t.Row(what, table.Millis(sample.Median(took)), table.Millis(sample.Quantile(took, 0.9)), table.Millis(sample.Quantile(took, 1)),
			part, table.Ratio(float64(sample.Median(took))/float64(run)), must, met)
	}
	add("D0: docker run echo, root of "+l.label, s.run, nil, "", "")
	if s.runStart != nil {
		add("D0 with "+l.start[0], s.runStart, nil, "", "")
	}
	bound := table.Bound{Limit: cachedMost, Unit: " ms"}
	must, met := bound.Show(milliseconds(float64(sample.Median(s.cached))))
	add("Dayfly, "+l.label+", code on the node", s.cached, s.cachedBy, must, met)
	bound.Limit = remoteMost
	must, met = bound.Show(milliseconds(float64(sample.Median(s.remote))))
	add("Dayfly, "+l.label+", code only in S3", s.remote, s.remoteBy, must, met)
}

func milliseconds(nanos float64) float64 {
	return float64(time.Duration(nanos).Round(time.Millisecond).Milliseconds())
}

// burst measures many first calls at the same time.
func (b *bench) burst(ctx context.Context) error {
	var all, medians []time.Duration
	for burst := range b.Bursts {
		b.Note("%d functions at once, %d of %d", together, burst+1, b.Bursts)
		took, err := b.callTogether(ctx)
		if err != nil {
			return err
		}
		all = append(all, sample.Quantile(took, 1))
		medians = append(medians, sample.Median(took))
	}
	t := table.Table{
		Title:   fmt.Sprintf("%d never-called Python functions at once, Docker sandbox, stems as demand makes them, n = %d", together, b.Bursts),
		Columns: []string{"what", "p50", "max", "must", "met"},
	}
	bound := table.Bound{Limit: togetherMost, Unit: " ms"}
	must, met := bound.Show(milliseconds(float64(sample.Median(all))))
	t.Row("all answered", table.Millis(sample.Median(all)), table.Millis(sample.Quantile(all, 1)), must, met)
	t.Row("the median one answered", table.Millis(sample.Median(medians)), table.Millis(sample.Quantile(medians, 1)), "", "")
	return t.Print(b.Out)
}

// callTogether deploys functions and calls each once, all at the same time.
func (b *bench) callTogether(ctx context.Context) ([]time.Duration, error) {
	refs := make([]string, together)
	for i := range refs {
		f := hello.Copy{Runtime: functions.RuntimePython, Name: fmt.Sprintf("burst-%d", i)}
		version, err := b.cluster.Deploy(ctx, f)
		if err != nil {
			return nil, err
		}
		refs[i] = fmt.Sprintf("%s:%d", f.Name, version)
	}
	took, errs := make([]time.Duration, together), make([]error, together)
	var wait sync.WaitGroup
	for i, ref := range refs {
		wait.Go(func() { took[i], _, errs[i] = b.cluster.ColdCall(ctx, ref) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return took, b.cluster.AwaitEmpty(ctx)
}
