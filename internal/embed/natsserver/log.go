package natsserver

import (
	"fmt"
	"log/slog"
	"sync"
)

// logger passes the server's own lines on to slog and remembers the last error,
// which is all that a failed start leaves behind. Safe for concurrent use.
type logger struct {
	log *slog.Logger

	mu  sync.Mutex
	err string // guarded by mu
}

func (l *logger) lastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *logger) fail(format string, v []any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = text
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *logger) Errorf(format string, v ...any)  { l.fail(format, v) }
func (l *logger) Fatalf(format string, v ...any)  { l.fail(format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
