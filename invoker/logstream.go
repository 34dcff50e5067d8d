package invoker

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dayfly-run/dayfly/wire"
)

// A line that begins with tagStart, the ID of an invocation and tagEnd is that
// invocation's, wherever it comes in: the shims mark lines so where several run at once.
const (
	tagStart = 0x1e
	tagEnd   = 0x1f
	// maxTag bounds an ID in a tag.
	maxTag = 64
)

// logStream is what one invocation prints. The one without an ID is the instance's
// own: what it prints while no invocation runs, or while several do and it does not
// say for which.
type logStream struct {
	id    wire.InvocationID
	ended bool   // end was called for it
	buf   []byte // not yet sent
	sent  int    // bytes
	tail  []byte // the last bytes, for error messages
	cut   bool   // MaxInvocationLog was reached
}

// begin starts an invocation: what is in the pipe now belongs to the one before. It
// may be called again before the end.
func (p *logPipe) begin(id wire.InvocationID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.find(id); s != nil && !s.ended {
		return
	}
	p.drain()
	p.splitLine()
	if len(p.open) == 0 {
		p.finish(p.sink)
		if p.sink == p.own {
			p.sink = &logStream{}
		}
		if p.lineOf == p.sink {
			p.lineOf = p.own
		}
		*p.sink = logStream{id: id, buf: p.sink.buf[:0], tail: p.sink.tail[:0]}
		p.open = append(p.open, p.sink)
		return
	}
	p.open = append(p.open, &logStream{id: id})
	p.sink = p.own
	p.own.sent, p.own.cut = 0, false // so its bound is one for each invocation
}

// end takes all that the invocation printed, sends it, and returns its last lines.
// What its processes print later is sent still, as the invocation's own where no
// other ran beside it. An empty ID is that of the instance.
func (p *logPipe) end(id wire.InvocationID) (tail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drain()
	s := p.find(id)
	if s == nil {
		return ""
	}
	p.splitLine()
	p.finish(s)
	p.open = slices.DeleteFunc(p.open, func(o *logStream) bool { return o == s })
	if len(p.open) == 1 {
		p.sink = p.open[0]
	}
	if p.lineOf == s && p.sink != s { // nobody looks after that one any more
		p.lineOf = p.own
	}
	return string(s.tail)
}

// find returns the stream of an invocation that runs, or was the last to run alone.
func (p *logPipe) find(id wire.InvocationID) *logStream {
	for _, s := range p.open {
		if s.id == id {
			return s
		}
	}
	if p.sink.id == id {
		return p.sink
	}
	return nil
}

// take shares out what was read.
func (p *logPipe) take(b []byte) {
	if !p.tagged {
		p.add(p.sink, b)
		return
	}
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n') + 1
		if end == 0 {
			if p.line = append(p.line, b...); len(p.line) > wire.MaxLogLine {
				p.giveLine()
			}
			return
		}
		p.line = append(p.line, b[:end]...)
		p.giveLine()
		p.lineOf = nil
		b = b[end:]
	}
}

// giveLine gives the line, or what is there of it, to whom it belongs; the rest will
// follow.
func (p *logPipe) giveLine() {
	text := p.line
	if p.lineOf == nil {
		p.lineOf, text = p.owner(text)
	}
	p.add(p.lineOf, text)
	p.line = p.line[:0]
}

// splitLine gives away the beginning of a line before its owner changes. That of a
// tag is left for the rest of it.
func (p *logPipe) splitLine() {
	if len(p.line) == 0 || p.lineOf == nil && p.line[0] == tagStart && tagLength(p.line) == 0 && len(p.line) < maxTag {
		return
	}
	p.giveLine()
}

// owner returns whose line it is, and the line without its tag.
func (p *logPipe) owner(line []byte) (*logStream, []byte) {
	n := tagLength(line)
	if n == 0 {
		return p.sink, line
	}
	if s := p.find(wire.InvocationID(line[1 : n-1])); s != nil {
		return s, line[n:]
	}
	return p.own, line[n:] // of one that is over, or of none
}

// tagLength returns the bytes of the tag that a line begins with, or 0.
func tagLength(line []byte) int {
	if len(line) == 0 || line[0] != tagStart {
		return 0
	}
	return bytes.IndexByte(line[:min(len(line), maxTag)], tagEnd) + 1
}

// add puts text into a stream, as far as its bound goes.
func (p *logPipe) add(s *logStream, b []byte) {
	s.tail = append(s.tail, b[max(0, len(b)-wire.LogTail):]...)
	if over := len(s.tail) - wire.LogTail; over > 0 {
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
	if s.cut {
		p.flooded = true
		return
	}
	if room := wire.MaxInvocationLog - s.sent - len(s.buf); len(b) > room {
		s.cut = true
		s.buf = append(s.buf, b[:room]...)
		s.buf = fmt.Appendf(s.buf, "\n[dayfly: the log of one invocation ends at %d bytes; the rest was left out]\n", wire.MaxInvocationLog)
		p.send(s)
		return
	}
	s.buf = append(s.buf, b...)
	if len(s.buf) > wire.MaxLogLine {
		p.send(s)
		return
	}
	if !p.armed {
		p.armed = true
		p.flusher.Reset(logFlushEvery)
	}
}

// send emits the whole lines in a stream's buffer, or all of it when a line is too
// long to wait for.
func (p *logPipe) send(s *logStream) {
	end := bytes.LastIndexByte(s.buf, '\n') + 1
	if end == 0 && len(s.buf) > wire.MaxLogLine {
		end = len(s.buf)
	}
	p.emitFirst(s, end, false)
}

// finish emits all that is in the buffer, marked as the last of its invocation
// unless the last was sent already.
func (p *logPipe) finish(s *logStream) {
	p.emitFirst(s, len(s.buf), !s.ended && s.id != "")
	s.ended = s.id != ""
}

func (p *logPipe) emitFirst(s *logStream, end int, last bool) {
	// An invocation that printed nothing leaves nothing.
	if end == 0 && (!last || s.sent == 0) {
		return
	}
	p.emit(s.id, string(s.buf[:end]), last)
	s.sent += end
	s.buf = append(s.buf[:0], s.buf[end:]...)
}

// streams are all that may hold something.
func (p *logPipe) streams() []*logStream {
	all := slices.Clone(p.open)
	for _, s := range []*logStream{p.sink, p.own} {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
