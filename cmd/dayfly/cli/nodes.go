package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// notableDrift is how far a node's clock may be off without a mark.
const notableDrift = time.Second

func nodesCommand() *cobra.Command {
	var flags common
	var wide bool
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes and what they hold",
		Long: `Nodes lists the nodes and what they hold. A ! marks a node that runs another version
than the server, and one whose clock is off by more than a second.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			nodes, err := s.client.Nodes(s.ctx)
			if err != nil {
				return err
			}
			return s.printNodes(nodes, wide)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVarP(&wide, "wide", "w", false, "show sandbox, runtimes, protocol and labels as well")
	return cmd
}

func (s *session) printNodes(nodes []client.Node, wide bool) error {
	if s.json {
		if nodes == nil {
			nodes = []client.Node{}
		}
		return s.printJSON(map[string]any{"nodes": nodes})
	}
	if len(nodes) == 0 {
		_, err := fmt.Fprintln(s.errOut, "There are no nodes: no function can run. Start one with dayfly up, or dayfly invoker.")
		return err
	}
	heading := []string{"NODE", "STATE", "ZONE", "ARCH", "INSTANCES", "BUSY", "KEPT", "STEMS", "MEMORY", "CPU", "LOAD", "BUILD", "DRIFT", "SEEN"}
	if wide {
		heading = append(heading, "SANDBOX", "RUNTIMES", "PROTOCOL", "LABELS")
	}
	rows := [][]string{heading}
	for _, n := range nodes {
		row := nodeRow(n)
		if wide {
			row = append(row, orDash(n.Sandbox), orDash(strings.Join(n.Runtimes, ",")), strconv.Itoa(n.Protocol), orDash(wire.ShowLabels(n.Labels)))
		}
		rows = append(rows, row)
	}
	return writeTable(s.out, rows)
}

func nodeRow(n client.Node) []string {
	if n.Gone {
		row := []string{string(n.Node), nodeState(n)}
		for range 12 {
			row = append(row, "-")
		}
		return row
	}
	busy, kept, stems := 0, 0, 0
	for _, version := range n.Versions {
		busy += version.Busy
		kept += version.Kept
	}
	for _, count := range n.Stems {
		stems += count
	}
	build := n.Build
	if n.OtherBuild {
		build += " !"
	}
	return []string{
		string(n.Node), nodeState(n), orDash(n.Labels[wire.LabelZone]), orDash(n.Labels[wire.LabelArch]),
		fmt.Sprintf("%d/%d", n.Reserved.Instances, n.Capacity.Instances), strconv.Itoa(busy), strconv.Itoa(kept), strconv.Itoa(stems),
		humanBytes(n.Reserved.MemoryBytes) + "/" + humanBytes(n.Capacity.MemoryBytes),
		cores(n.Reserved.CPUMillis) + "/" + cores(n.Capacity.CPUMillis),
		strconv.FormatFloat(n.Load, 'f', 2, 64), build, humanDrift(time.Duration(n.DriftMillis) * time.Millisecond), humanAge(n.LastSeen, time.Now()),
	}
}

func nodeState(n client.Node) string {
	switch {
	case n.Gone:
		return "gone (draining)"
	case n.Stopping:
		return "gone"
	case n.Incompatible:
		return "incompatible"
	case n.Drained:
		return "drained"
	case n.Draining:
		return "draining"
	}
	return "ready"
}

// humanDrift writes how far a clock is ahead, or behind with a minus.
func humanDrift(d time.Duration) string {
	text := fmt.Sprintf("%+.1fs", d.Seconds())
	switch {
	case d.Abs() < 50*time.Millisecond:
		return "0s"
	case d.Abs() > notableDrift:
		return text + " !"
	}
	return text
}

// cores writes thousandths of a core: 250 is 0.25.
func cores(millis int64) string {
	return strconv.FormatFloat(float64(millis)/1000, 'f', -1, 64)
}
