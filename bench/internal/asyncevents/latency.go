package asyncevents

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/load"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// latencies sends events to `dayfly up` at a fixed rate and reads in their records when
// they were accepted, begun and done.
func (o Options) latencies(ctx context.Context, perSecond float64) (err error) {
	perSecond = min(perSecond, (maxRecords-1)/o.OpenFor.Seconds())
	c, err := o.up(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	ended, err := c.EventsEnded(ctx)
	if err != nil {
		return err
	}
	o.Note("events: open loop, %.0f a second", perSecond)
	begun := time.Now()
	accepted, err := load.Open(ctx, async(c), o.Clients, perSecond, o.OpenFor)
	if err != nil {
		return fmt.Errorf("accept events: %w", err)
	}
	if err := c.AwaitEvents(ctx, drainBound, ended+len(accepted.Latencies)); err != nil {
		return err
	}
	records, err := c.API.Invocations(ctx, name, client.InvocationFilter{State: wire.StateSucceeded, Limit: maxRecords})
	if err != nil {
		return err
	}
	var starts, ends []time.Duration
	for _, r := range records {
		if !r.AcceptedAt.Before(begun) {
			starts, ends = append(starts, r.StartedAt.Sub(r.AcceptedAt)), append(ends, r.EndedAt.Sub(r.AcceptedAt))
		}
	}
	if len(ends) != len(accepted.Latencies) {
		return fmt.Errorf("%d records of %d events", len(ends), len(accepted.Latencies))
	}
	t := table.Table{
		Title:   fmt.Sprintf("One event's way, one process, open loop at %.0f events/s, one run of %s", perSecond, o.OpenFor),
		Columns: []string{"what", "events", "p50", "p90", "p99", "max"},
	}
	for _, row := range []struct {
		what      string
		latencies []time.Duration
	}{
		{"due to 202", accepted.Latencies},
		{"accepted to its attempt", starts},
		{"accepted to its end, output stored", ends},
	} {
		t.Row(row.what, fmt.Sprint(len(row.latencies)), table.Micros(sample.Quantile(row.latencies, 0.5)), table.Micros(sample.Quantile(row.latencies, 0.9)),
			table.Micros(sample.Quantile(row.latencies, 0.99)), table.Micros(sample.Quantile(row.latencies, 1)))
	}
	return t.Print(o.Out)
}
