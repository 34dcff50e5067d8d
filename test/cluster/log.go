package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxLines bounds what is kept of a process's log, and maxWrongs what is kept of
	// lines that no process may write.
	maxLines, maxWrongs = 20_000, 20
	// leads is what a scheduler says when it begins to lead.
	leads = "answering as the leader"
)

// Line is a line of a log.
type Line struct {
	// At is when it was read, by the one clock of who runs the cluster: that of the
	// process may have jumped.
	At   time.Time
	Text string
}

// Fields decodes a line that is a JSON object; nil for any other.
func (l Line) Fields() map[string]any {
	var fields map[string]any
	if json.Unmarshal([]byte(l.Text), &fields) != nil {
		return nil
	}
	return fields
}

// Log keeps the newest lines that a process wrote, over all its runs. Of those that it
// keeps no longer it knows what must not be missed. Its methods may be called by any
// number of goroutines.
type Log struct {
	mu     sync.Mutex // guards what follows
	lines  []Line
	wrongs []Line // those that no process may write
	led    Line   // the newest by which a scheduler began to lead
}

func (l *Log) read(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			l.add(strings.TrimSuffix(text, "\n"))
		}
		if err != nil {
			return
		}
	}
}

func (l *Log) add(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= maxLines {
		l.lines = slices.Delete(l.lines, 0, maxLines/2)
	}
	line := Line{time.Now(), text}
	l.lines = append(l.lines, line)
	if wrong(text) && len(l.wrongs) < maxWrongs {
		l.wrongs = append(l.wrongs, line)
	}
	if strings.Contains(text, leads) && line.Fields()["msg"] == leads {
		l.led = line
	}
}

// wrong says whether a line is one that no process may write.
func wrong(text string) bool {
	for _, begin := range []string{"panic:", "fatal error:", "SIGSEGV", "WARNING: DATA RACE"} {
		if strings.HasPrefix(text, begin) {
			return true
		}
	}
	return false
}

// Sane fails when a process wrote at a moment or later what no process may write.
func (l *Log) Sane(since time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, line := range l.wrongs {
		if !line.At.Before(since) {
			errs = append(errs, errors.New(line.Text))
		}
	}
	return errors.Join(errs...)
}

// beganToLead is the newest line by which a scheduler began to lead, if there is one.
func (l *Log) beganToLead() (Line, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.led, !l.led.At.IsZero()
}

// Since returns the lines that were read at a moment or later, oldest first.
func (l *Log) Since(at time.Time) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.lines, at, func(line Line, at time.Time) int { return line.At.Compare(at) })
	return slices.Clone(l.lines[i:])
}
