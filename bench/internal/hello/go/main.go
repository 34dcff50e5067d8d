// Command hello is the Go function of the benchmarks: it greets, after holding
// its instance for ?hold=, a duration, so that as many start as are called.
package main

import (
	"context"
	"fmt"
	"time"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

func main() { dayfly.Start(handle) }

func handle(ctx context.Context, in dayfly.HTTPRequest) (map[string]string, error) {
	if text := in.Query().Get("hold"); text != "" {
		hold, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("hold: %w", err)
		}
		select {
		case <-time.After(hold):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return map[string]string{"message": "hello"}, nil
}
