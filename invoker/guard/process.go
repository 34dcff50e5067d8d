package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// Command is the argument that makes a binary the guard's process; a log level and
// format may follow.
const Command = "guard"

// Files that the process inherits.
const (
	socketFD = 3
	memoryFD = 4
)

const (
	// lookEvery is how often deadlines are looked at while there are containers.
	lookEvery = 100 * time.Millisecond
	// goneBound limits the wait for the end of what was killed. Nothing of it runs any
	// more then: it is the kernel that takes its time.
	goneBound = 250 * time.Millisecond
	// wordBound limits the tries to tell the cluster, which finds out by itself then.
	wordBound = 3 * time.Second
	wordPause = 50 * time.Millisecond
)

// Wanted says whether a command line asks for the guard's process.
func Wanted(args []string) bool { return len(args) >= 2 && args[1] == Command }

// Run is the guard's process. It returns the exit code, which is 0 when the invoker
// ended, in order or not. One that does not know what to watch ends by itself: the
// invoker starts another, and tells it everything.
func Run(args []string) int {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE) // it ends with the invoker
	// It was started by a path that says nothing; lists of processes show the name.
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(args[0])), 0) // or they do not
	level, format := "info", "text"
	if len(args) == 4 {
		level, format = args[2], args[3]
	}
	log, err := telemetry.NewLogger(os.Stderr, level, format)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	shared, err := mapSlots(memoryFD)
	if err != nil {
		log.Error("the guard is started by an invoker, not by hand", telemetry.KeyError, err)
		return 2
	}
	p := process{log: log.With(telemetry.KeyRole, Command), slots: shared, held: map[int]held{}}
	if err := p.run(); err != nil {
		log.Error("the guard cannot go on", telemetry.KeyError, err)
		return 1
	}
	return 0
}

// process is the guard's own side. It has one goroutine.
type process struct {
	log   *slog.Logger
	slots *slots
	held  map[int]held
	reach message
	word  message
}

// held is a container as the process has it.
type held struct {
	pidfd int
	// killed is the deadline for which it was.
	killed int64
}

// run watches until the invoker ends, or says something that is not understood.
func (p *process) run() error {
	for {
		wait := time.Duration(-1)
		if len(p.held) > 0 {
			wait = lookEvery
		}
		if !hostproc.Readable(socketFD, wait) {
			p.look()
			continue
		}
		m, pidfd, err := receive(socketFD)
		switch {
		case errors.Is(err, errGone):
			p.bury()
			return nil
		case err != nil:
			return err
		case m.Op == opEnd:
			for _, h := range p.held {
				_ = hostproc.Kill(h.pidfd) // or it has ended
			}
			return nil
		}
		p.take(m, pidfd)
		p.look() // messages must not keep it from this
	}
}

// take notes what a message says.
func (p *process) take(m message, pidfd int) {
	switch m.Op {
	case opReach:
		p.reach = m
	case opWord:
		p.word = m
	case opWatch:
		p.forget(m.Slot)
		p.held[m.Slot] = held{pidfd: pidfd}
	case opForget:
		p.forget(m.Slot)
	}
}

func (p *process) forget(slot int) {
	if h, ok := p.held[slot]; ok {
		_ = unix.Close(h.pidfd)
		delete(p.held, slot)
	}
}

// look kills what is past its deadline.
func (p *process) look() {
	now := monotonic()
	for slot, h := range p.held {
		deadline := p.slots.load(slot)
		if deadline == 0 || deadline == h.killed || now < deadline+int64(Slack) {
			continue
		}
		h.killed = deadline
		p.held[slot] = h
		if err := hostproc.Kill(h.pidfd); err == nil {
			p.log.Warn("killed a container past its deadline: the invoker has not", "late", time.Duration(now-deadline))
		}
	}
}

// bury ends what an invoker that is gone has left, and tells the cluster.
func (p *process) bury() {
	began := time.Now()
	killed := 0
	for _, h := range p.held {
		if hostproc.Kill(h.pidfd) == nil {
			killed++
		}
	}
	for _, h := range p.held {
		hostproc.Readable(h.pidfd, max(0, time.Until(began.Add(goneBound))))
	}
	p.log.Warn("the invoker is gone: killed its containers", "containers", killed, "took", time.Since(began))
	if p.reach.NATS == "" || p.word.Subject == "" {
		return
	}
	err := p.tell(began.Add(wordBound))
	if err != nil {
		p.log.Warn("could not tell the cluster, which finds out by itself", telemetry.KeyError, err)
		return
	}
	p.log.Info("told the cluster", "took", time.Since(began))
}

// tell publishes the last word.
func (p *process) tell(until time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	for {
		conn, err := bus.Connect(bus.Config{URL: p.reach.NATS, Credentials: p.reach.Credentials, Name: "dayfly guard"}, p.log)
		if err == nil {
			err = errors.Join(conn.Publish(p.word.Subject, p.word.Word), conn.Flush(ctx))
			conn.Close()
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wordPause):
		}
	}
}
