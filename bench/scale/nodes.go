package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// startNATS runs a server in this process, with its data in memory where the system has
// such a folder: what the disk does is not measured here.
func startNATS() (*natsserver.Server, func(), error) {
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "dayfly-scale-")
	if err != nil {
		return nil, nil, err
	}
	server, err := natsserver.Start(natsserver.Config{Dir: dir, Listen: "127.0.0.1:0"}, quiet())
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return server, func() {
		server.Stop()
		_ = os.RemoveAll(dir) // it is the system's temporary folder
	}, nil
}

// measureNodes prints what the words of many nodes cost.
func measureNodes(ctx context.Context, s settings, out io.Writer) (err error) {
	server, stop, err := startNATS()
	if err != nil {
		return err
	}
	defer stop()
	parts := map[string]*proc{}
	for _, role := range []string{"fleet", "scheduler", "gateway"} {
		if parts[role], err = startPart(ctx, role, server.URL()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, parts[role].Stop()) }()
		if role == "fleet" {
			if _, err := parts[role].ask(question{Do: "begin", Nodes: s.nodes}); err != nil {
				return err
			}
		}
	}
	led, err := parts["scheduler"].ask(question{Do: "lead"})
	if err != nil {
		return err
	}
	t := table.Table{
		Title: fmt.Sprintf("%d nodes, a heartbeat every %s, for %s each", s.nodes, wire.HeartbeatEvery, s.window),
		Columns: []string{
			"words", "a second", "bytes each", "MB/s", "NATS, CPU a word (cores)", "scheduler", "gateway",
			"change to placement, p50 / p99", "change to call, p50 / p99", "nodes known", "given up",
		},
	}
	for _, row := range []struct {
		mode mode
		text string
	}{
		{idle, "what changed: nothing"}, {changing, "what changed: on a tenth of the nodes"},
		{wholes, "all of the state each time"}, // may be more than the machine can take: last
	} {
		if err := nodeRow(ctx, s, &t, parts, row.mode, row.text); err != nil {
			return fmt.Errorf("%s: %w", row.text, err)
		}
	}
	if err := t.Print(out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\nA scheduler that started beside the running nodes led after %s.\n", led.Took[0].Round(time.Millisecond))
	return err
}

func nodeRow(ctx context.Context, s settings, t *table.Table, parts map[string]*proc, m mode, text string) error {
	if _, err := parts["fleet"].ask(question{Do: "mode", Mode: m}); err != nil {
		return err
	}
	if err := pause(ctx, s.warmUp); err != nil {
		return err
	}
	before, natsBefore, err := census(parts)
	if err != nil {
		return err
	}
	if err := pause(ctx, s.window); err != nil {
		return err
	}
	after, natsAfter, err := census(parts)
	if err != nil {
		return err
	}
	placed := timing(parts["fleet"].ask(question{Do: "placements", Tries: s.tries}))
	called := timing(parts["fleet"].ask(question{Do: "calls", Tries: s.tries}))
	var known []string
	for _, role := range []string{"scheduler", "gateway"} {
		a, err := parts[role].ask(question{Do: "count"})
		if err != nil {
			return err
		}
		known = append(known, strconv.FormatInt(a.Count, 10))
	}
	words, bytes := after["fleet"].Count-before["fleet"].Count, after["fleet"].Bytes-before["fleet"].Bytes
	seconds := after["fleet"].Usage.At.Sub(before["fleet"].Usage.At).Seconds()
	cost := func(after, before usage) string {
		each := (after.CPU - before.CPU) / time.Duration(max(words, 1))
		return fmt.Sprintf("%.1f µs (%.2f)", float64(each.Nanoseconds())/1000, after.share(before))
	}
	t.Row(text, table.Rate(float64(words)/seconds), strconv.FormatInt(bytes/max(words, 1), 10), fmt.Sprintf("%.1f", float64(bytes)/seconds/1e6),
		cost(natsAfter, natsBefore), cost(after["scheduler"].Usage, before["scheduler"].Usage), cost(after["gateway"].Usage, before["gateway"].Usage),
		placed, called, strings.Join(known, " "), strconv.FormatInt(after["fleet"].Given-before["fleet"].Given, 10))
	return nil
}

// census asks all parts what they used and counted; this process is NATS.
func census(parts map[string]*proc) (map[string]answer, usage, error) {
	got := map[string]answer{}
	for role, c := range parts {
		do := "usage"
		if role == "fleet" {
			do = "counts"
		}
		a, err := c.ask(question{Do: do})
		if err != nil {
			return nil, usage{}, err
		}
		got[role] = a
	}
	return got, use(false), nil
}

// timing shows how long tries took, and why there are no more: it may be more than the
// machine can take.
func timing(a answer, err error) string {
	if err == nil {
		return percentiles(a.Took)
	}
	if len(a.Took) == 0 {
		return "none: " + err.Error()
	}
	return fmt.Sprintf("%s in %d tries, then: %v", percentiles(a.Took), len(a.Took), err)
}

func percentiles(took []time.Duration) string {
	if len(took) == 0 {
		return ""
	}
	return table.Millis(sample.Median(took)) + " / " + table.Millis(sample.Quantile(took, 0.99))
}
