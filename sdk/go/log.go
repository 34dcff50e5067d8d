package dayfly

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
)

// LogWriter returns where a handler writes its log: the standard error. Where the
// function takes several events at once, each line is marked as that of the
// invocation that ctx belongs to, which no line printed otherwise is: give it to
// [log/slog.NewTextHandler] or the like. Each Write holds whole lines. It is safe for
// concurrent use.
func LogWriter(ctx context.Context) io.Writer {
	if inv, ok := FromContext(ctx); ok && inv.marked {
		return markedWriter{os.Stderr, "\x1e" + inv.ID + "\x1f"}
	}
	return os.Stderr
}

// markedWriter begins each line with a mark.
type markedWriter struct {
	w    io.Writer
	mark string
}

func (m markedWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var marked bytes.Buffer
	for line := range bytes.Lines(p) {
		marked.WriteString(m.mark)
		marked.Write(line)
	}
	if p[len(p)-1] != '\n' { // else the next one's line would go on here
		marked.WriteByte('\n')
	}
	// In one write: no other comes between.
	if _, err := m.w.Write(marked.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Logger returns a logger of the invocation that ctx belongs to. It writes a JSON object a
// line, with "time", "level", "msg" and the fields, as `dayfly logs --level` reads it.
// Lines below the level in LOG_LEVEL (debug, info, warn or error; info if it says
// nothing) are left out.
func Logger(ctx context.Context) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(os.Getenv("LOG_LEVEL"))); err != nil {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewJSONHandler(LogWriter(ctx), &slog.HandlerOptions{Level: level}))
}
