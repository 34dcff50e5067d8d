package e2e_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// patience bounds a wait for what comes in a moment on a machine that has nothing else
// to do. No test measures: how long things take is the benchmarks'.
const patience = 2 * time.Minute

// poll calls ok again and again until it returns nil, and fails with its last error
// when that takes too long.
func poll(within time.Duration, ok func() error) error {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", within, err)
		}
		<-tick.C
	}
}

// eventually fails the test when ok does not return nil in time.
func eventually(t testing.TB, within time.Duration, ok func() error) {
	t.Helper()
	if err := poll(within, ok); err != nil {
		t.Fatal(err)
	}
}

// logBook keeps the lines that a process printed.
type logBook struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

const tailLines = 40

func (l *logBook) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		l.mu.Lock()
		l.lines = append(l.lines, lines.Text())
		l.mu.Unlock()
	}
}

func (l *logBook) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *logBook) tail() string {
	lines := l.all()
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// records returns the lines that are JSON objects.
func (l *logBook) records() (found []map[string]any) {
	for _, line := range l.all() {
		var record map[string]any
		if json.Unmarshal([]byte(line), &record) == nil {
			found = append(found, record)
		}
	}
	return found
}

// find returns the first record with that message.
func (l *logBook) find(message string) map[string]any {
	for _, r := range l.records() {
		if r["msg"] == message {
			return r
		}
	}
	return nil
}

// process is a program that was started by a test.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *logBook      // what it wrote to stderr
	done chan struct{} // closed when it has ended and all of its log is read
}

// start starts a program; its stderr goes into the log.
func start(name string, cmd *exec.Cmd) (*process, error) {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	wait, err := embedtest.StartTied(cmd)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: cmd, log: &logBook{}, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.log.read(stderr)
		_ = wait() // its state says how it ended
	}()
	return p, nil
}

func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exitCode is valid once the process has ended; -1 for one that was killed.
func (p *process) exitCode() int { return p.cmd.ProcessState.ExitCode() }

func (p *process) awaitEnd(within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s did not end within %s", p.name, within)
	}
}

// kill ends the process at once, as `kill -9` does.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	return p.awaitEnd(patience)
}

// terminate stops the process as an operator does, and fails unless it ends well.
func (p *process) terminate(within time.Duration) error {
	if p.ended() {
		return fmt.Errorf("%s had ended by itself, with %s", p.name, p.cmd.ProcessState)
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := p.awaitEnd(within); err != nil {
		return errors.Join(err, p.kill())
	}
	if p.exitCode() != 0 {
		return fmt.Errorf("%s ended with %s", p.name, p.cmd.ProcessState)
	}
	return p.sane()
}

// sane fails when the log shows what no process may do.
func (p *process) sane() error {
	for _, line := range p.log.all() {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			return fmt.Errorf("%s: %s; the whole log:\n%s", p.name, line, strings.Join(p.log.all(), "\n"))
		}
	}
	return nil
}
