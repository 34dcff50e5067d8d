package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// maxHeldLog bounds the entries of the past that are held until it is known which are
// the newest that fit a filter, in bytes.
const maxHeldLog = 8 << 20

func logParameters() []*huma.Param {
	return []*huma.Param{
		query("follow", huma.TypeBoolean, "Stay open for what is printed from now on"),
		query("tail", huma.TypeInteger, "How many entries of the past, the newest ones that fit"),
		query("invocation", huma.TypeString, "Only those of one invocation"),
		query("version", huma.TypeInteger, "Only those of one version; a reference with a number means it too"),
		query("instance", huma.TypeString, "Only those of one instance, by its ID or the beginning of it"),
		query("level", huma.TypeString, "Only lines that are at least so grave: debug, info, warn or error"),
		query("contains", huma.TypeString, "Only lines with this text in them"),
		query("since", huma.TypeString, "Only what is newer: a duration as 10m, or a time as 2026-05-01T12:00:00Z"),
		query("after", huma.TypeInteger, "Go on behind the entry with this sequence, as after a connection that broke"),
	}
}

// readLogs writes log entries: the last ones of the past, and with follow those to
// come until the client goes.
func (g *Gateway) readLogs(w http.ResponseWriter, r *http.Request) error {
	ref, err := wire.ParseRef(refParam(r))
	if err != nil {
		return invalid(err)
	}
	if _, _, err := g.resolve(refParam(r)); err != nil {
		return err
	}
	read, filter, err := logOptions(ref, r.URL.Query(), time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := g.streamContext(r.Context())
	defer cancel()
	flush, begun := http.NewResponseController(w), false
	begin := func() {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
	}
	if read.Follow { // the client hears at once that it is heard
		begin()
		_ = flush.Flush()
	}
	out := logWriter{filter: filter, most: read.Tail, write: func(line []byte) error {
		begin()
		_, err := w.Write(line)
		return err
	}}
	if filter.any() && read.After == 0 {
		read.Tail = wire.MaxLogTail // among these are the newest that fit
	} else {
		out.streaming = true
	}
	err = g.deps.Conn.Read(ctx, read, func(m bus.StreamMsg) error {
		if err := out.take(m); err != nil || !read.Follow || !out.streaming {
			return err
		}
		return flush.Flush()
	})
	switch {
	case err != nil && !begun:
		return wire.Errorf(wire.CodeUnavailable, "the log could not be read: %s", err)
	case err != nil:
		// The connection breaks, as an orderly end would say that this is all.
		g.log.Debug("log stream broke", telemetry.KeyFunction, ref.FunctionID.String(), telemetry.KeyError, err)
		panic(http.ErrAbortHandler)
	}
	begin()
	return nil
}

// logWriter writes the entries that fit a filter, each on a line.
type logWriter struct {
	filter logFilter
	write  func(line []byte) error
	// most is how many of the past are written, the newest ones.
	most int
	// streaming is set once the past is written.
	streaming bool
	held      [][]byte
	heldBytes int
}

func (l *logWriter) take(m bus.StreamMsg) error {
	line, err := l.filter.line(m)
	switch {
	case err != nil:
		return err
	case l.streaming && line == nil:
		return nil
	case l.streaming:
		return l.write(line)
	}
	if line != nil {
		l.held = append(l.held, line)
		l.heldBytes += len(line)
	}
	for len(l.held) > l.most || l.heldBytes > maxHeldLog {
		l.heldBytes -= len(l.held[0])
		l.held = l.held[1:]
	}
	if m.Left > 0 {
		return nil
	}
	l.streaming = true
	for _, line := range l.held {
		if err := l.write(line); err != nil {
			return err
		}
	}
	l.held = nil
	return nil
}

// logFilter says which lines of a log fit; the zero value lets all pass.
type logFilter struct {
	version  int
	instance string
	level    wire.Level
	contains string
	// ends keeps entries that only say that the invocation is over.
	ends bool
}

func (f logFilter) any() bool {
	return f.version != 0 || f.instance != "" || f.level != 0 || f.contains != ""
}

// line returns an entry as it is sent, with its sequence; nil if nothing of it fits.
func (f logFilter) line(m bus.StreamMsg) ([]byte, error) {
	if !f.any() {
		// What was stored is an object that is not empty, so this makes another one.
		if len(m.Data) < 2 || m.Data[0] != '{' {
			return nil, fmt.Errorf("log entry %d is no object", m.Sequence)
		}
		line := fmt.Appendf(make([]byte, 0, len(m.Data)+40), `{"sequence":%d,`, m.Sequence)
		return append(append(line, m.Data[1:]...), '\n'), nil
	}
	var entry wire.LogEntry
	if err := json.Unmarshal(m.Data, &entry); err != nil {
		return nil, fmt.Errorf("read log entry %d: %w", m.Sequence, err)
	}
	if f.version != 0 && entry.Version.Number != f.version || !strings.HasPrefix(string(entry.Instance), f.instance) {
		return nil, nil
	}
	entry.Sequence, entry.Text = m.Sequence, f.text(entry.Text)
	if entry.Text == "" && !(f.ends && entry.Last) {
		return nil, nil
	}
	line, err := json.Marshal(entry)
	return append(line, '\n'), err
}

// text returns the lines that fit.
func (f logFilter) text(text string) string {
	if f.level == 0 && f.contains == "" {
		return text
	}
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, f.contains) && (f.level == 0 || wire.LineLevel(line) >= f.level) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// logOptions reads what a log request asks for. One invocation's log is given whole,
// and so is what came since a moment, unless a tail is asked for.
func logOptions(ref wire.Ref, query url.Values, now time.Time) (read bus.ReadOptions, filter logFilter, err error) {
	read = bus.ReadOptions{Stream: wire.StreamLogs, Subject: wire.FunctionLogs(ref.FunctionID), Tail: wire.DefaultLogTail}
	filter.version, _ = strconv.Atoi(ref.Qualifier) // an alias is none
	if id := wire.InvocationID(query.Get("invocation")); id != "" {
		if !id.Valid() {
			return read, filter, wire.Errorf(wire.CodeInvalid, "invocation=%s is no invocation ID", id)
		}
		read.Subject, read.Tail = wire.LogSubject(ref.FunctionID, id), wire.MaxLogTail
		filter.ends = true
	}
	if text := query.Get("since"); text != "" {
		if read.Since, err = parseSince(text, now); err != nil {
			return read, filter, err
		}
		read.Tail = wire.MaxLogTail
	}
	if text := query.Get("tail"); text != "" {
		if read.Tail, err = strconv.Atoi(text); err != nil || read.Tail < 0 || read.Tail > wire.MaxLogTail {
			return read, filter, wire.Errorf(wire.CodeInvalid, "tail=%s: use a number from 0 to %d", text, wire.MaxLogTail)
		}
	}
	if text := query.Get("follow"); text != "" {
		if read.Follow, err = strconv.ParseBool(text); err != nil {
			return read, filter, wire.Errorf(wire.CodeInvalid, "follow=%s: use true or false", text)
		}
	}
	if text := query.Get("after"); text != "" {
		if read.After, err = strconv.ParseUint(text, 10, 64); err != nil {
			return read, filter, wire.Errorf(wire.CodeInvalid, "after=%s: use the sequence of an entry", text)
		}
	}
	return read, filter, filter.read(query)
}

func (f *logFilter) read(query url.Values) (err error) {
	if text := query.Get("version"); text != "" {
		if f.version, err = strconv.Atoi(text); err != nil || f.version < 1 {
			return wire.Errorf(wire.CodeInvalid, "version=%s: use the number of a version", text)
		}
	}
	if text := query.Get("level"); text != "" {
		if f.level, err = wire.ParseLevel(text); err != nil {
			return err
		}
	}
	f.instance, f.contains = query.Get("instance"), query.Get("contains")
	return nil
}

// parseSince reads a moment, or how long ago it is.
func parseSince(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, wire.Errorf(wire.CodeInvalid, "since=%s: use a duration as 10m, or a time as %s", text, now.UTC().Format(time.RFC3339))
	}
	return at, nil
}

// streamContext ends when the client goes or the gateway drains.
func (g *Gateway) streamContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case <-g.draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
