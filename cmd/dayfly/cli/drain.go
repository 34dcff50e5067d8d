package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

const (
	// drainLook is how often a node that drains is looked at.
	drainLook = 500 * time.Millisecond
	// drainPatience is how long nothing may be seen of it where there is no --timeout.
	drainPatience = 30 * time.Second
)

func drainCommand() *cobra.Command {
	var flags common
	var cancel, wait, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have a node give up what it has, so that it can be switched off",
		Long: `Drain has a node take nothing new. What runs there ends, within its deadlines, and
instances that are to be kept (minInstances) stay until others run in their place. Then
it is safe to switch the node off. The order outlives restarts of the node; --cancel
takes it back.

On a terminal, drain waits and shows how far the node is. Interrupting it does not take
the order back.`,
		Example: "  dayfly drain rack1-a --wait\n  dayfly drain rack1-a --cancel",
		Args:    arguments("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case wait && noWait:
				return usagef(cmd, "--wait and --no-wait contradict each other; use one of them")
			case cancel && (wait || timeout != 0):
				return usagef(cmd, "--cancel waits for nothing; leave out --wait and --timeout")
			case noWait && timeout != 0:
				return usagef(cmd, "--timeout says how long to wait, and --no-wait not to; use one of them")
			case timeout < 0:
				return usagef(cmd, "--timeout %s is negative", timeout)
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			node := wire.NodeID(args[0])
			if cancel {
				return s.undrain(node)
			}
			return s.drain(node, wait || !noWait && (timeout > 0 || animated(s.errOut)), timeout)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&cancel, "cancel", false, "have the node work again")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is safe to switch the node off (default on a terminal, and with --timeout)")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait; by default as long as it takes")
	return cmd
}

func (s *session) undrain(node wire.NodeID) error {
	state, err := s.client.UndrainNode(s.ctx, node)
	if err != nil {
		return err
	}
	return s.printDrain(state, fmt.Sprintf("Node %s is not to drain any more.", node))
}

func (s *session) drain(node wire.NodeID, wait bool, timeout time.Duration) error {
	state, err := s.client.DrainNode(s.ctx, node)
	if err == nil && wait {
		state, err = s.awaitDrained(state, timeout)
	}
	switch {
	case err != nil:
		return err
	case state.Drained:
		return s.printDrain(state, fmt.Sprintf("Node %s is drained: it is safe to switch it off.", node))
	case state.Gone:
		return s.printDrain(state, fmt.Sprintf("Nothing is heard of node %s; it drains when it comes back.", node))
	}
	return s.printDrain(state, fmt.Sprintf("Node %s drains. To see how far it is: %s", node, s.suggest("drain %s --wait", node)))
}

// printDrain prints a state as JSON, or else what it means.
func (s *session) printDrain(state wire.DrainState, text string) error {
	if s.json {
		return s.printJSON(state)
	}
	_, err := fmt.Fprintln(s.out, text)
	return err
}

// awaitDrained shows how far a node is until nothing of it is left.
func (s *session) awaitDrained(state wire.DrainState, timeout time.Duration) (wire.DrainState, error) {
	return drainWatch{
		look: func(ctx context.Context) (wire.DrainState, error) { return s.client.Drain(ctx, state.Node) },
		tell: func(text string) {
			if !s.json {
				fmt.Fprintf(s.errOut, "%s: %s\n", state.Node, text)
			}
		},
		gone:    "if it does not come back: " + s.suggest("drain %s --cancel", state.Node),
		timeout: timeout,
	}.wait(s.ctx, state)
}

// drainProgress says what a node that is to drain still has, and what it waits for.
func drainProgress(d wire.DrainState) string {
	if !d.Draining {
		return "waiting for the node to hear of it"
	}
	has := fmt.Sprintf("%s, %d busy; %s", counted(d.Instances, "instance"), d.Busy, counted(d.Stems, "stem"))
	var waits []string
	for _, k := range d.Kept {
		text := fmt.Sprintf("%d of %s", k.Count, k.Version)
		switch {
		case k.Elsewhere > k.Ready:
			text += fmt.Sprintf(" (%d starting elsewhere)", k.Elsewhere-k.Ready)
		case k.Elsewhere == 0:
			text += " (none elsewhere: is there room on another node that may have it?)"
		}
		waits = append(waits, text)
	}
	if len(waits) == 0 {
		return has
	}
	return has + "; kept until replaced: " + strings.Join(waits, ", ")
}
