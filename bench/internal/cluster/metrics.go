package cluster

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// stemClaims counts the starts of instances by whether a stem was ready.
const stemClaims = "dayfly_invoker_stem_claims_total{"

// StemMisses returns how many instances had to wait for a container so far, because
// no stem was ready.
func (c *Cluster) StemMisses(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	misses := 0.0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		labels, ok := strings.CutPrefix(lines.Text(), stemClaims)
		if !ok || !strings.Contains(labels, `result="miss"`) {
			continue
		}
		value, err := strconv.ParseFloat(labels[strings.LastIndexByte(labels, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", lines.Text(), err)
		}
		misses += value
	}
	return int(misses), lines.Err()
}
