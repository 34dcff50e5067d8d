package invoker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// logFlushEvery is how long a printed line may wait for others before it is sent.
	logFlushEvery = 100 * time.Millisecond
	// logChunk is how much is read at once, in bytes.
	logChunk = 16 << 10
	// floodPause stands between two reads of what nobody will see, so that a function
	// that prints without end takes its own time and not the node's.
	floodPause = time.Millisecond
)

// logPipe reads what an instance prints from a FIFO. A pipe keeps order: what the
// function wrote before it answered is in there when the answer arrives, so after
// a drain each line is known to belong to the invocation that printed it.
type logPipe struct {
	path string
	done chan struct{}
	emit emitLog

	mu      sync.Mutex // guards what follows, and reading the pipe
	file    *os.File   // nil until open
	raw     rawConn
	chunk   []byte // read buffer
	current wire.InvocationID
	ended   bool   // end was called for it
	buf     []byte // of the current invocation, not yet sent
	sent    int    // bytes sent of the current invocation
	tail    []byte // its last bytes, for error messages
	cut     bool   // MaxInvocationLog was reached
	flusher *time.Timer
	armed   bool // flusher runs
	closed  bool
}

// emitLog takes a piece of what an invocation printed. It is called with a lock
// held and must not block.
type emitLog func(id wire.InvocationID, text string, last bool)

// rawConn is the part of syscall.RawConn that is used.
type rawConn interface {
	Control(func(fd uintptr)) error
	Read(func(fd uintptr) bool) error
}

// newLogPipe makes the FIFO. What comes before the first begin has no ID.
func newLogPipe(path string, emit emitLog) (*logPipe, error) {
	if err := unix.Mkfifo(path, 0o622); err != nil {
		return nil, fmt.Errorf("make log pipe: %w", err)
	}
	if err := os.Chmod(path, 0o622); err != nil { // past the umask
		return nil, fmt.Errorf("make log pipe: %w", err)
	}
	p := &logPipe{path: path, done: make(chan struct{}), emit: emit}
	p.flusher = time.AfterFunc(time.Hour, p.flush)
	p.flusher.Stop()
	return p, nil
}

// open starts reading. Until then whoever opens the FIFO for writing waits, and with
// it the instance's first process, whose output goes there.
func (p *logPipe) open() error {
	// Open for writing too, so that the pipe never reports an end while processes
	// of the function come and go.
	f, err := os.OpenFile(p.path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open log pipe: %w", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log pipe: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.file, p.raw = f, raw
	go p.run(raw)
	return nil
}

// run reads whenever the pipe has something, until it is closed. It lets go of the
// lock after each piece: a function may print without a pause.
func (p *logPipe) run(raw rawConn) {
	defer close(p.done)
	for {
		flood := false
		err := raw.Read(func(fd uintptr) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			n := p.read(int(fd), logChunk)
			flood = p.cut
			return n > 0 || p.closed
		})
		if err != nil {
			return
		}
		if flood {
			time.Sleep(floodPause)
		}
	}
}

// read takes at most limit bytes from the pipe and returns how many.
func (p *logPipe) read(fd, limit int) int {
	if p.chunk == nil {
		p.chunk = make([]byte, logChunk)
	}
	for {
		n, err := unix.Read(fd, p.chunk[:min(limit, logChunk)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n > 0 {
			p.take(p.chunk[:n])
		}
		return n
	}
}

func (p *logPipe) take(b []byte) {
	p.tail = append(p.tail, b[max(0, len(b)-wire.LogTail):]...)
	if over := len(p.tail) - wire.LogTail; over > 0 {
		p.tail = append(p.tail[:0], p.tail[over:]...)
	}
	if p.cut {
		return
	}
	if room := wire.MaxInvocationLog - p.sent - len(p.buf); len(b) > room {
		p.cut = true
		p.buf = append(p.buf, b[:room]...)
		p.buf = fmt.Appendf(p.buf, "\n[dayfly: the log of one invocation ends at %d bytes; the rest was left out]\n", wire.MaxInvocationLog)
		p.send()
		return
	}
	p.buf = append(p.buf, b...)
	if len(p.buf) > wire.MaxLogLine {
		p.send()
		return
	}
	if !p.armed {
		p.armed = true
		p.flusher.Reset(logFlushEvery)
	}
}

// send emits the whole lines in the buffer, or all of it when a line is too long to
// wait for.
func (p *logPipe) send() {
	end := bytes.LastIndexByte(p.buf, '\n') + 1
	if end == 0 && len(p.buf) > wire.MaxLogLine {
		end = len(p.buf)
	}
	p.emitFirst(end, false)
}

// finish emits all that is in the buffer, marked as the last of its invocation
// unless the last was sent already.
func (p *logPipe) finish() {
	p.emitFirst(len(p.buf), !p.ended)
	p.ended = true
}

func (p *logPipe) emitFirst(end int, last bool) {
	// An invocation that printed nothing leaves nothing.
	if end == 0 && (!last || p.sent == 0) {
		return
	}
	p.emit(p.current, string(p.buf[:end]), last)
	p.sent += end
	p.buf = append(p.buf[:0], p.buf[end:]...)
}

func (p *logPipe) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	if !p.closed {
		p.send()
	}
}

// begin starts an invocation: what is in the pipe now belongs to the one before.
func (p *logPipe) begin(id wire.InvocationID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id == p.current && !p.ended {
		return
	}
	p.drain()
	p.finish()
	p.current, p.ended, p.sent, p.cut, p.tail = id, false, 0, false, p.tail[:0]
}

// end takes all that the invocation printed, sends it, and returns its last lines.
// What its processes print later is sent still, as the invocation's own.
func (p *logPipe) end() (tail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drain()
	p.finish()
	return string(p.tail)
}

// drain takes what is in the pipe at this moment, and no more: a function may print
// faster than it is read.
func (p *logPipe) drain() {
	if p.file == nil || p.closed {
		return
	}
	_ = p.raw.Control(func(fd uintptr) {
		left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		for err == nil && left > 0 {
			n := p.read(int(fd), left)
			if n <= 0 {
				return
			}
			left -= n
		}
	})
}

// close sends what is left and ends reading. It may be called on a pipe that was
// never opened, and again.
func (p *logPipe) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.drain()
	p.finish()
	p.closed = true
	p.flusher.Stop()
	file := p.file
	p.mu.Unlock()
	if file != nil {
		_ = file.Close()
		<-p.done
	}
}
