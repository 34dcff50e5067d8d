// Package coldstarts measures calls that find no instance, and what instances cost
// that wait for a call, with each sandbox that the machine has. Containers and
// interpreters without Dayfly are measured in turn with it.
package coldstarts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/cluster"
	"github.com/dayfly-run/dayfly/bench/internal/hello"
	"github.com/dayfly-run/dayfly/bench/internal/machine"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/sandbox/docker"
	"github.com/dayfly-run/dayfly/invoker/sandbox/oci"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/sdk/client"
)

// least is how often each figure is measured, however long it takes.
const least = 3

// Counts say how often each figure is measured at most.
type Counts struct {
	// Cached is how many cold calls with a stem and the code on the node there are of
	// each language, Remote with the code only in S3, and NoStem without a stem.
	Cached, Remote, NoStem int
	// Bursts is how often many functions are called at once, Wakes how often an
	// instance is left alone and then called, Idlers how many instances are weighed.
	Bursts, Wakes, Idlers int
	// Sustained is how long functions are called without a pause.
	Sustained time.Duration
}

// Options are what Run needs.
type Options struct {
	Site   cluster.Site
	Counts Counts
	Out    io.Writer
	// Note tells how far it is.
	Note func(format string, args ...any)
}

// language is a runtime, a command that prints a byte as soon as it has started, and
// one that then stays idle; nil for a language without an interpreter.
type language struct {
	runtime, label string
	start, stay    []string
}

func languages() []language {
	return []language{
		{runtime: functions.RuntimePython, label: "Python",
			start: []string{"/usr/bin/python3", "-c", "print(1)"},
			stay:  []string{"/usr/bin/python3", "-c", "import time; print(1, flush=True); time.sleep(3600)"}},
		{runtime: functions.RuntimeNode, label: "Node.js",
			start: []string{"/usr/bin/node", "-e", "console.log(1)"},
			stay:  []string{"/usr/bin/node", "-e", "console.log(1); setTimeout(() => {}, 3600000)"}},
		{runtime: functions.RuntimeGo, label: "Go"},
	}
}

// bench measures one sandbox.
type bench struct {
	Options
	kind      string
	cluster   *cluster.Cluster // the one that runs now
	crun      *baseline.Crun   // nil for docker
	languages []language
	roots     map[string]string // folder of each runtime's root file system
	rows      *rows
}

// Run prints the table of cold starts.
func Run(ctx context.Context, o Options) error {
	r := &rows{}
	for _, kind := range []string{docker.Kind, oci.Kind} {
		if missing := lacks(ctx, kind); missing != nil {
			o.Note("no sandbox %s: %v", kind, missing)
			r.absent(kind, missing)
			continue
		}
		b := &bench{Options: o, kind: kind, languages: languages(), roots: map[string]string{}, rows: r}
		if err := b.run(ctx); err != nil {
			return errors.Join(fmt.Errorf("sandbox %s: %w", kind, err), r.print(o.Out)) // what there is
		}
	}
	return r.print(o.Out)
}

// lacks says why a sandbox or its baseline cannot run here.
func lacks(ctx context.Context, kind string) error {
	if kind == docker.Kind {
		_, err := baseline.DockerVersion(ctx)
		return err
	}
	return baseline.CrunMissing()
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.kind == oci.Kind {
		if b.crun, err = baseline.OpenCrun(b.Site.Dir); err != nil {
			return err
		}
		defer b.crun.Close()
	}
	// An instance ends soon after its call, so that the next call is cold.
	const soon = 20 * time.Millisecond
	err = b.with(ctx, cluster.Node{Sandbox: b.kind, Idle: soon, Stems: 1}, func() error {
		return inTurn(ctx, b.cached, b.remote, b.bursts, b.sustained)
	})
	if err != nil {
		return err
	}
	err = b.with(ctx, cluster.Node{Sandbox: b.kind, Idle: time.Hour, Stems: 1}, func() error {
		return inTurn(ctx, b.weights, b.wakes)
	})
	if err != nil {
		return err
	}
	return b.with(ctx, cluster.Node{Sandbox: b.kind, Idle: soon, Stems: 0}, func() error {
		return b.withoutStems(ctx)
	})
}

// inTurn ends with the first error.
func inTurn(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// repeat calls do up to n times; on a busy machine less often, when limit is over, so
// that the whole run has an end.
func repeat(n int, limit time.Duration, do func(n int) error) error {
	begun := time.Now()
	for i := range n {
		if i >= least && time.Since(begun) > limit {
			return nil
		}
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

// with runs do while a cluster is up.
func (b *bench) with(ctx context.Context, n cluster.Node, do func() error) (err error) {
	b.Note("%s: starting dayfly up --stems %d", b.kind, n.Stems)
	if b.cluster, err = b.Site.Up(ctx, n); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.Stop()) }()
	for _, l := range b.languages {
		if err := b.unpackRoot(ctx, l.runtime); err != nil {
			return err
		}
	}
	return do()
}

// unpackRoot finds or makes a folder with the runtime's root file system.
func (b *bench) unpackRoot(ctx context.Context, name string) error {
	rt, ok := runtimes.Lookup(name)
	if !ok {
		return fmt.Errorf("no runtime %q", name)
	}
	root := rt.Root() + "-" + string(rt.RootDigest())
	if b.kind == oci.Kind {
		b.roots[name] = filepath.Join(b.Site.Dir, "up", oci.Kind, "roots", root)
		return nil
	}
	b.roots[name] = filepath.Join(b.Site.Dir, root)
	if _, err := os.Stat(b.roots[name]); err == nil {
		return nil
	}
	image, err := baseline.Image(ctx, name)
	if err != nil {
		return err
	}
	return baseline.ExportRoot(ctx, image, b.roots[name])
}

// container measures a container with the runtime's root that prints a byte, made by
// what the sandbox itself uses: D0 or C0.
func (b *bench) container(ctx context.Context, l language) (time.Duration, error) {
	if b.crun != nil {
		return b.crun.Run(ctx, b.roots[l.runtime], "/bin/echo", "1")
	}
	image, err := baseline.Image(ctx, l.runtime)
	if err != nil {
		return 0, err
	}
	return baseline.DockerRun(ctx, image, "/bin/echo", "1")
}

// containerName is what the table calls that.
func (b *bench) containerName() string {
	if b.crun != nil {
		return "C0"
	}
	return "D0"
}

// deploy deploys a function of a language and returns what calls this very version. What
// the node then knows of it is its code, of the start before it went live; with
// [client.WithoutLive] nothing.
func (b *bench) deploy(ctx context.Context, l language, name, salt string, options ...client.DeployOption) (ref string, v functions.Version, err error) {
	v, err = b.cluster.Deploy(ctx, hello.Copy{Runtime: l.runtime, Name: name, Salt: salt}, options...)
	return fmt.Sprintf("%s:%d", name, v.Number), v, err
}

// quiet waits until the node has done what the calls before left to do.
func (b *bench) quiet(ctx context.Context, bound time.Duration) error {
	return machine.AwaitQuiet(ctx, bound)
}
