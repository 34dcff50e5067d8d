package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stemClaims counts the starts of instances by whether a stem was ready.
const stemClaims = "dayfly_invoker_stem_claims_total{"

// eventsEnded counts the events that are over.
const eventsEnded = "dayfly_events_ended_total{"

// StemMisses returns how many instances had to wait for a container so far, because
// no stem was ready.
func (c *Cluster) StemMisses(ctx context.Context) (int, error) {
	return sum(ctx, c.Addr, stemClaims, `result="miss"`)
}

// EventsEnded returns how many events the cluster's worker has brought to an end. It is
// zero before the worker has started.
func (c *Cluster) EventsEnded(ctx context.Context) (int, error) {
	n, err := sum(ctx, c.worker, eventsEnded, "")
	if errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil
	}
	return n, err
}

// AwaitEvents waits until so many events have ended.
func (c *Cluster) AwaitEvents(ctx context.Context, bound time.Duration, n int) error {
	return c.poll(ctx, bound, fmt.Sprintf("%d events to end", n), func(ctx context.Context) (bool, error) {
		ended, err := c.EventsEnded(ctx)
		return ended >= n, err
	})
}

// sum adds up the values of a metric whose labels contain a text.
func sum(ctx context.Context, addr, name, label string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	total := 0.0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		labels, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || !strings.Contains(labels, label) {
			continue
		}
		value, err := strconv.ParseFloat(labels[strings.LastIndexByte(labels, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", lines.Text(), err)
		}
		total += value
	}
	return int(total), lines.Err()
}
