package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/spf13/cobra"
)

func nodesCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes and what they hold",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			nodes, err := s.client.Nodes(s.ctx)
			if err != nil {
				return err
			}
			return s.printNodes(nodes)
		},
	}
	flags.register(cmd)
	return cmd
}

func (s *session) printNodes(nodes []client.Node) error {
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
	rows := [][]string{{"NODE", "STATE", "INSTANCES", "BUSY", "KEPT", "STEMS", "MEMORY", "CPU", "LOAD", "SANDBOX", "RUNTIMES", "SEEN"}}
	for _, n := range nodes {
		busy, kept, stems := 0, 0, 0
		for _, version := range n.Versions {
			busy += version.Busy
			kept += version.Kept
		}
		for _, count := range n.Stems {
			stems += count
		}
		rows = append(rows, []string{
			string(n.Node), nodeState(n),
			fmt.Sprintf("%d/%d", n.Reserved.Instances, n.Capacity.Instances), strconv.Itoa(busy), strconv.Itoa(kept), strconv.Itoa(stems),
			humanBytes(n.Reserved.MemoryBytes) + "/" + humanBytes(n.Capacity.MemoryBytes),
			cores(n.Reserved.CPUMillis) + "/" + cores(n.Capacity.CPUMillis),
			strconv.FormatFloat(n.Load, 'f', 2, 64), n.Sandbox, strings.Join(n.Runtimes, ","), humanAge(n.LastSeen, time.Now()),
		})
	}
	return writeTable(s.out, rows)
}

func nodeState(n client.Node) string {
	switch {
	case n.Stopping:
		return "gone"
	case n.Draining:
		return "draining"
	}
	return "ready"
}

// cores writes thousandths of a core: 250 is 0.25.
func cores(millis int64) string {
	return strconv.FormatFloat(float64(millis)/1000, 'f', -1, 64)
}
