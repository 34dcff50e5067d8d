package events_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// restartAfter is how soon a process that ended is started again.
const restartAfter = 100 * time.Millisecond

// process is a program that is started again whenever it ends, as a supervisor does.
type process struct {
	name    string
	log     string // path
	command func() *exec.Cmd

	stopping chan struct{}
	ending   sync.Once
	stopped  chan struct{}

	mu      sync.Mutex // guards what follows
	running *exec.Cmd  // nil between two runs
	killed  bool       // it ends because we killed it
	alone   int        // ends of its own
}

func supervise(dir, name string, command func() *exec.Cmd) *process {
	p := &process{
		name: name, log: filepath.Join(dir, name+".log"), command: command,
		stopping: make(chan struct{}), stopped: make(chan struct{}),
	}
	go p.loop()
	return p
}

func (p *process) loop() {
	defer close(p.stopped)
	for {
		if err := p.once(); err != nil {
			fmt.Fprintln(os.Stderr, p.name+":", err)
		}
		again := time.NewTimer(restartAfter)
		select {
		case <-p.stopping:
			again.Stop()
			return
		case <-again.C:
		}
	}
}

// once runs the program to its end.
func (p *process) once() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	wait, err := embedtest.StartTied(cmd)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.running, p.killed = cmd, false
	p.mu.Unlock()
	select {
	case <-p.stopping: // end did not see it
		_ = cmd.Process.Kill()
	default:
	}
	_ = wait() // how it ended does not matter
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running = nil; !p.killed {
		p.alone++
	}
	return nil
}

// kill ends the process as `kill -9` does, and reports whether there was one.
func (p *process) kill() bool { return p.signal(syscall.SIGKILL) }

func (p *process) signal(s syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return false
	}
	p.killed = true
	return p.running.Process.Signal(s) == nil
}

// terminate stops the process as an operator does, and returns once the next one runs.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	old := p.running
	var err error
	if old != nil {
		p.killed = true
		err = old.Process.Signal(syscall.SIGTERM)
	}
	p.mu.Unlock()
	if !errors.Is(err, os.ErrProcessDone) { // else it has just ended by itself
		must(t, err)
	}
	within(t, startBound, p.name+" runs again", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.running == nil || p.running == old {
			return errors.New("it does not")
		}
		return nil
	})
}

// end ends the process for good, with SIGKILL, or SIGTERM where it has something to clear
// away. Only the first end counts.
func (p *process) end(s syscall.Signal) {
	p.ending.Do(func() {
		close(p.stopping)
		p.signal(s)
	})
	<-p.stopped
}

// endsAlone counts the ends that nobody asked for.
func (p *process) endsAlone() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alone
}

// sane fails when the log shows what no process may do.
func (p *process) sane() error {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE") {
			return errors.New(p.name + ": " + line)
		}
	}
	return nil
}

// tail is the end of the log.
func (p *process) tail(bytes int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}
