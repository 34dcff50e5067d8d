// Package guard kills containers when their invoker cannot: because it is stuck or
// stopped when a deadline passes, or because it is gone. A small process beside the
// invoker holds a pidfd of each container's first process, and reads the deadlines from
// memory that both share, so that arming one is a store and no message. When the
// invoker is gone, the process kills every container at once and then tells the
// cluster, which need not wait until it misses the node's heartbeats.
package guard

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// Slack is how long after a deadline a container is killed that its invoker has not
// killed by itself.
const Slack = 250 * time.Millisecond

const (
	// restartFirst and restartLast bound the pause before a guard that died is started
	// again.
	restartFirst = 50 * time.Millisecond
	restartLast  = 5 * time.Second
	// steady is how long a guard runs that is not one which dies at its start.
	steady = 10 * time.Second
	// endBound limits the guard's own end, in order.
	endBound = 5 * time.Second
)

// program is this one, also where an upgrade has put another in its place.
const program = "/proc/self/exe"

// ErrFull: the guard watches as many containers as it can.
var ErrFull = fmt.Errorf("a node cannot watch more than %d containers", maxHolds)

// Config describes a guard.
type Config struct {
	// Args are the arguments of its process, which is this program and calls [Run].
	Args []string
	// NATS and Credentials are how it reaches the cluster, see [bus.Config]. With no
	// NATS it tells nobody.
	NATS, Credentials string
}

// Guard is the invoker's side: it starts the process, again whenever that dies, and
// tells it what to watch. All methods are safe for concurrent use; on a nil Guard they
// do nothing.
type Guard struct {
	cfg    Config
	log    *slog.Logger
	clock  clock
	slots  *slots
	memory *os.File
	wake   chan struct{} // holds one when there is something to send
	stop   chan struct{}
	done   chan struct{}

	mu    sync.Mutex // guards what follows
	holds map[int]*Hold
	free  []int // slots that were given back
	word  message
	queue []message // not sent yet
	pid   int       // of the process, 0 while there is none
}

// New makes a guard, without its process.
func New(cfg Config, log *slog.Logger) (*Guard, error) {
	shared, memory, err := newSlots()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	g := &Guard{
		cfg: cfg, log: log, clock: newClock(), slots: shared, memory: memory,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		holds: map[int]*Hold{}, word: message{Op: opWord},
	}
	go g.supervise()
	return g, nil
}

// SetWord sets what is published on a subject when the invoker is gone.
func (g *Guard) SetWord(subject string, word []byte) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.word.Subject, g.word.Word = subject, word
	g.tell(g.word)
}

// Watch has a container watched until the hold is released. A container without a
// process of its own has no hold, which is nil. Its error is [ErrFull], or what
// [sandbox.Held] says.
func (g *Guard) Watch(c sandbox.Container) (*Hold, error) {
	held, ok := c.(sandbox.Held)
	if g == nil || !ok {
		return nil, nil //nolint:nilnil // a nil hold is one that does nothing
	}
	pidfd, err := held.Pidfd()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	slot := len(g.holds)
	if n := len(g.free); n > 0 {
		slot, g.free = g.free[n-1], g.free[:n-1]
	}
	if slot >= maxHolds {
		_ = pidfd.Close()
		return nil, ErrFull
	}
	h := &Hold{guard: g, slot: slot, pidfd: pidfd}
	g.holds[slot] = h
	g.tell(h.watch())
	return h, nil
}

// Close ends the process in order: it kills what is watched still, and tells nobody.
func (g *Guard) Close() {
	if g == nil {
		return
	}
	close(g.stop)
	<-g.done
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.holds {
		_ = h.pidfd.Close()
	}
	clear(g.holds)
	_ = g.memory.Close()
}

// tell queues a message; g.mu is held.
func (g *Guard) tell(m message) {
	if g.pid == 0 {
		return // the next process is told everything
	}
	g.queue = append(g.queue, m)
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// everything is what a new process must know; from now on it is told of changes.
func (g *Guard) everything(pid int) []message {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := []message{{Op: opReach, NATS: g.cfg.NATS, Credentials: g.cfg.Credentials}, g.word}
	for _, h := range g.holds {
		all = append(all, h.watch())
	}
	g.queue, g.pid = nil, pid
	return all
}

func (g *Guard) taken() []message {
	g.mu.Lock()
	defer g.mu.Unlock()
	queue := g.queue
	g.queue = nil
	return queue
}

// supervise keeps a process running.
func (g *Guard) supervise() {
	defer close(g.done)
	pause := restartFirst
	for {
		began := time.Now()
		err := g.serve()
		g.mu.Lock()
		g.pid, g.queue = 0, nil
		g.mu.Unlock()
		if err == nil {
			return
		}
		if time.Since(began) > steady {
			pause = restartFirst
		}
		g.log.Warn("the guard died; starting it again", telemetry.KeyError, err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-g.stop:
			timer.Stop()
			return
		}
		pause = min(2*pause, restartLast)
	}
}

// errDied: the process ended unasked.
var errDied = errors.New("its process ended")

// child is a process that was started.
type child struct {
	conn   *net.UnixConn
	exited <-chan struct{}
	kill   func() // nothing, where it has ended
}

// end ends a process if it runs still. It is dead before the connection ends: one that
// sees the end of that takes the invoker for dead, kills what it watches and says so.
func (c *child) end() {
	c.kill()
	<-c.exited
	_ = c.conn.Close()
}

// serve runs one process. It returns nil when it was to end.
func (g *Guard) serve() error {
	c, err := g.start()
	if err != nil {
		return err
	}
	defer c.end()
	for {
		select {
		case <-g.wake:
			for _, m := range g.taken() {
				if err := send(c.conn, m); err != nil {
					return fmt.Errorf("it does not listen: %w", err)
				}
			}
		case <-c.exited:
			return errDied
		case <-g.stop:
			limit := time.NewTimer(endBound)
			defer limit.Stop()
			if send(c.conn, message{Op: opEnd}) == nil {
				select {
				case <-c.exited:
				case <-limit.C:
				}
			}
			return nil
		}
	}
}

// start starts a process and tells it everything.
func (g *Guard) start() (*child, error) {
	conn, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, g.cfg.Args...) //nolint:gosec,noctx // this program, which outlives any context
	cmd.Args[0] = os.Args[0]
	cmd.Env = environment(os.Environ())
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, g.memory} // socketFD and memoryFD
	// A session of its own: what a terminal sends to the invoker is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("start it: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // however it ended
	}()
	c := &child{conn: conn, exited: ended, kill: func() { _ = cmd.Process.Kill() }}
	for _, m := range g.everything(cmd.Process.Pid) {
		if err := send(conn, m); err != nil {
			c.end()
			return nil, fmt.Errorf("tell it what to watch: %w", err)
		}
	}
	return c, nil
}

// environment is ours without what is secret, and what keeps a Go program small.
func environment(ours []string) []string {
	env := slices.DeleteFunc(slices.Clone(ours), func(v string) bool { return strings.HasPrefix(v, "DAYFLY_") })
	return append(env, "GOMAXPROCS=1", "GOGC=50", "GOMEMLIMIT=16MiB")
}
