package cluster

import (
	"bufio"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxLines bounds what is kept of a process's log.
const maxLines = 20_000

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

// Log keeps the newest lines that a process wrote, over all its runs.
type Log struct {
	mu    sync.Mutex
	lines []Line // guarded by mu
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
	l.lines = append(l.lines, Line{time.Now(), text})
}

// Since returns the lines that were read at a moment or later, oldest first.
func (l *Log) Since(at time.Time) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.lines, at, func(line Line, at time.Time) int { return line.At.Compare(at) })
	return slices.Clone(l.lines[i:])
}
