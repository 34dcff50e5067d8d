// Package telemetry makes loggers and names the keys that every role logs under,
// so that one grep follows an invocation through all of them.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Keys of structured log lines.
const (
	KeyRole       = "role"
	KeyInvocation = "invocation"
	KeyFunction   = "function"
	KeyNode       = "node"
	KeyInstance   = "instance"
	KeyError      = "error"
	KeyCode       = "code"
)

// NewLogger makes a logger from the names that people give on the command line:
// level debug, info, warn or error; format text or json.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q: use text or json", format)
}

// NewRegistry makes a metrics registry that already has those of the process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}
