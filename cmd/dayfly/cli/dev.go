package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// devAlias is the alias that dev moves unless told otherwise.
const devAlias = "dev"

func devCommand() *cobra.Command {
	var flags common
	d := dev{alias: devAlias}
	cmd := &cobra.Command{
		Use:   "dev [DIR]",
		Short: "Work on a function: every change is deployed at once, with its logs",
		Long: `Dev deploys the function in a folder, by default the current one, again whenever one
of its files changes, and shows what the build and the function print. What cannot be
built is shown and waits for the next change. Ctrl-C ends it.

It moves the alias "dev" and never "live", so that callers keep what they have: no
trigger runs what you work on, and configuration and secrets are those of the function.
Call it as NAME:dev.`,
		Example: "  dayfly dev\n  dayfly dev thumbnail --alias ada",
		Args:    arguments("[DIR]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if d.dir = "."; len(args) == 1 {
				d.dir = args[0]
			}
			switch {
			case !wire.ValidName(d.namespace):
				return usagef(cmd, "%q is not a namespace; use lower-case letters, digits and inner hyphens, at most 63", d.namespace)
			case d.alias == wire.LiveAlias:
				return usagef(cmd, "dev does not touch what is live; deploy does")
			case !functions.ValidAlias(d.alias):
				return usagef(cmd, "%q cannot name an alias; use lower-case letters, digits and inner hyphens, at most 63, and not only digits", d.alias)
			}
			if err := bundle.RequireManifest(d.dir); err != nil {
				return withHint(err, "begin a function there: dayfly init "+shellWord(d.dir))
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if s.json {
				return usagef(cmd, "dev is for people: -o json says nothing here; use deploy and logs")
			}
			d.s, d.screen = s, &screen{out: s.out, errOut: s.errOut}
			return d.run()
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&d.namespace, "namespace", wire.DefaultNamespace, "the namespace to deploy into")
	cmd.Flags().StringVar(&d.alias, "alias", d.alias, "the alias to move")
	cmd.Flags().BoolVar(&d.vendor, "vendor", false, "use the dependencies that are in the folder, and fetch none")
	return cmd
}

// dev is a folder that is deployed whenever it changes.
type dev struct {
	s                     *session
	screen                *screen
	dir, namespace, alias string
	vendor                bool
}

// screen is where builds and functions write at once, whole lines each.
type screen struct {
	mu          sync.Mutex
	out, errOut io.Writer
}

// say tells what dev does, with the time.
func (sc *screen) say(format string, args ...any) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	moment := paint(sc.errOut, dim, time.Now().Format("15:04:05"))
	fmt.Fprintf(sc.errOut, "%s %s\n", moment, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// fail shows an error as commands do.
func (sc *screen) fail(err error) {
	var text strings.Builder
	PrintError(&text, err)
	message, isOurs := strings.CutPrefix(text.String(), "error: ")
	if isOurs {
		message = paint(sc.errOut, red, "error: ") + message
	}
	sc.say("%s", message)
}

// Write takes what a build prints.
func (sc *screen) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		sc.say("%s", paint(sc.errOut, dim, strings.TrimRight(line, "\r\n")))
	}
	return len(p), nil
}

// run deploys, watches and deploys again until the context ends, which is no error.
func (d *dev) run() error {
	ctx, cancel := context.WithCancel(d.s.ctx)
	defer cancel()
	// Before the first deploy reads it, so that no change is between the two.
	now, err := bundle.Snapshot(d.dir)
	if err != nil {
		return err
	}
	changes := make(chan []string)
	var work sync.WaitGroup
	work.Go(func() { watch(ctx, d.dir, now, changes, d.screen.fail) })
	defer work.Wait()
	defer cancel()
	stop := func() {}
	deploy := func() {
		stop() // what is under way is of yesterday
		var current context.Context
		current, stop = context.WithCancel(ctx)
		done := make(chan struct{})
		work.Go(func() { defer close(done); d.deploy(current) })
		cut := stop
		stop = func() { cut(); <-done }
	}
	d.screen.say("watching %s; Ctrl-C ends it", d.dir)
	deploy()
	for {
		select {
		case names := <-changes:
			d.screen.say("changed: %s", shortList(names))
			deploy()
		case <-ctx.Done():
			stop()
			d.screen.say("stopped; %s stays as it is", d.alias)
			return nil
		}
	}
}

// shortList names a few things and counts the rest.
func shortList(names []string) string {
	const shown = 3
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:shown], ", ") + " and " + strconv.Itoa(len(names)-shown) + " more"
}

// deploy makes a version of the folder, points the alias to it and shows its log until
// the context ends.
func (d *dev) deploy(ctx context.Context) {
	begun := time.Now()
	done, err := d.build(ctx)
	if err == nil {
		_, err = d.s.client.SetAlias(ctx, done.Function.FunctionID, d.alias, functions.Alias{Version: done.Version.Number})
	}
	switch {
	case ctx.Err() != nil:
		return // somebody changed something again, or it ends
	case err != nil:
		d.screen.fail(err)
		d.screen.say("waiting for a change")
		return
	}
	ref := wire.Ref{FunctionID: done.Function.FunctionID, Qualifier: d.alias}
	d.screen.say("%s version %d after %s, at %s", paint(d.screen.errOut, green, "ready:"), done.Version.Number,
		humanDuration(time.Since(begun)), d.s.client.FunctionURL(ref))
	d.screen.say("call it: %s", d.s.suggest("invoke %s", ref))
	d.logs(ctx, ref, done.Version.Number)
}

// build uploads the folder and waits until it is built.
func (d *dev) build(ctx context.Context) (done client.Deployment, err error) {
	if err := checkManifest(folder{dir: d.dir, shown: d.dir}); err != nil {
		return done, err
	}
	file, err := os.CreateTemp("", "dayfly-bundle-*.tar.gz")
	if err != nil {
		return done, fmt.Errorf("make room for the bundle: %w", err)
	}
	defer func() {
		// It was only read since, and a temporary file is nobody's loss.
		_, _ = file.Close(), os.Remove(file.Name())
	}()
	if _, err := bundle.Pack(d.dir, file); err != nil {
		return done, err
	}
	options := []client.DeployOption{client.WithoutLive(), client.WithBuildLog(d.screen)}
	if d.vendor {
		options = append(options, client.WithVendored())
	}
	return d.s.client.Deploy(ctx, d.namespace, file, options...)
}

// logs shows what a version prints, beginning with what it has.
func (d *dev) logs(ctx context.Context, ref wire.Ref, version int) {
	lost := func(error) { d.screen.say("the server is away; waiting for it") }
	for entry, err := range d.s.client.FollowLogs(ctx, ref.String(), client.LogOptions{Version: version, Tail: wire.DefaultLogTail}, lost) {
		if err != nil {
			if ctx.Err() == nil {
				d.screen.fail(err)
			}
			return
		}
		d.screen.mu.Lock()
		err := d.s.printEntry(entry)
		d.screen.mu.Unlock()
		if err != nil {
			return // nobody reads any more
		}
	}
}
