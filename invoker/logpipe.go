package invoker

import (
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

	mu      sync.Mutex // guards what follows, and reading the pipe
	emit    emitLog
	file    *os.File // nil until open
	raw     rawConn
	chunk   []byte       // read buffer
	own     *logStream   // the instance's
	open    []*logStream // of the invocations that run
	sink    *logStream   // whose all is that does not say whose it is
	tagged  bool         // lines may say whose they are; what follows is for that
	line    []byte       // that is not whole yet
	lineOf  *logStream   // has the beginning of the line already; nil: nobody has
	flooded bool         // something was left out
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
	own := &logStream{}
	p := &logPipe{path: path, done: make(chan struct{}), emit: emit, own: own, sink: own}
	p.flusher = time.AfterFunc(time.Hour, p.flush)
	p.flusher.Stop()
	return p, nil
}

// adopt sends what comes from now on to emit; tagged says that several invocations
// will run at once.
func (p *logPipe) adopt(emit emitLog, tagged bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drain()
	p.finish(p.sink)
	p.emit, p.tagged = emit, tagged
	p.own = &logStream{}
	p.sink = p.own
}

// start begins to read. Until then whoever opens the FIFO for writing waits, and with
// it the instance's first process, whose output goes there.
func (p *logPipe) start() error {
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
			p.flooded = false
			n := p.read(int(fd), logChunk)
			flood = p.flooded
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

func (p *logPipe) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	if p.closed {
		return
	}
	for _, s := range p.streams() {
		p.send(s)
	}
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
	if len(p.line) > 0 {
		p.giveLine()
	}
	for _, s := range p.streams() {
		p.finish(s)
	}
	p.closed = true
	p.flusher.Stop()
	file := p.file
	p.mu.Unlock()
	if file != nil {
		_ = file.Close()
		<-p.done
	}
}
