package natsserver

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// logger passes the server's own lines on to slog and remembers the last fatal
// error, which is all that a failed start leaves behind, and the first failed write,
// which nothing but a log line and costly health checks tell of. Safe for concurrent use.
type logger struct {
	log *slog.Logger

	mu        sync.Mutex // guards what follows
	fatal     string
	unwritten string
}

func (l *logger) lastFatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

// lostWrite is in the server's line about a write that failed. Its stream, or the whole
// server, takes none from then on, also when there is room again.
const lostWrite = "ritical write error"

func (l *logger) failedWrite() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unwritten
}

// Fatalf does not end the process: whoever started the server decides that.
func (l *logger) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fatal = text
}

// Errorf keeps the first line about a failed write.
func (l *logger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	if !strings.Contains(text, lostWrite) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unwritten == "" {
		l.unwritten = text
	}
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
