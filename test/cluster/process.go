package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// restartPause is what a supervisor waits before it starts a process again that
	// ended by itself.
	restartPause = 250 * time.Millisecond
	// readyWait bounds one question for readiness.
	readyWait = 2 * time.Second
	// stopBound is how long a process may take to end well.
	stopBound = 20 * time.Second
)

// Process is a role on a host of its own. It is started again when it ends by itself, as
// a supervisor does. Its methods may be called by any number of goroutines.
type Process struct {
	// Name is the host's as well; Role is the command.
	Name, Role string
	Host       *Host
	Log        *Log

	health  uint16 // port
	args    []string
	env     []string
	disk    disk
	starter *starter
	client  *http.Client

	mu      sync.Mutex    // guards what follows
	wanted  bool          // it shall run
	running *exec.Cmd     // nil while it does not
	alone   int           // ends that nobody asked for
	changed chan struct{} // closed and replaced when wanted changes
	ended   chan struct{} // closed when running has ended
	over    chan struct{} // closed when the supervisor has ended
}

func (p *Process) supervise() {
	p.changed, p.over, p.wanted = make(chan struct{}), make(chan struct{}), true
	go p.loop()
}

func (p *Process) loop() {
	defer close(p.over)
	for {
		p.mu.Lock()
		wanted, changed := p.wanted, p.changed
		p.mu.Unlock()
		if changed == nil {
			return
		}
		if !wanted {
			<-changed
			continue
		}
		if err := p.once(); err != nil {
			p.Log.add("start of " + p.Name + ": " + err.Error())
		}
		pause := time.NewTimer(restartPause)
		select {
		case <-changed:
		case <-pause.C:
		}
		pause.Stop()
	}
}

// once runs the program to its end.
func (p *Process) once() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...) //nolint:noctx // it ends when it is killed
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.mu.Lock()
	if !p.wanted {
		p.mu.Unlock()
		return write.Close()
	}
	err = p.starter.start(p.Host, cmd)
	if err == nil {
		p.running, p.ended = cmd, make(chan struct{})
	}
	p.mu.Unlock()
	_ = write.Close() // the program has its own
	if err != nil {
		return err
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		p.Log.read(read)
	}()
	_ = cmd.Wait() // its state says how it ended
	p.mu.Lock()
	if p.wanted {
		p.alone++
		p.Log.add(p.Name + " ended by itself: " + cmd.ProcessState.String())
	}
	p.running = nil
	close(p.ended)
	p.mu.Unlock()
	// What it started may hold the pipe for longer.
	_ = read.SetReadDeadline(time.Now().Add(time.Second))
	<-copied
	return nil
}

// want says whether the process shall run.
func (p *Process) want(wanted bool) {
	if p.wanted != wanted && p.changed != nil {
		p.wanted = wanted
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// Start has a process run again that was killed.
func (p *Process) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want(true)
}

// Stay has a process not be started again when it ends, until [Process.Start].
func (p *Process) Stay() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want(false)
}

// Kill ends the process as `kill -9` does, and keeps it down until [Process.Start].
func (p *Process) Kill() error {
	p.mu.Lock()
	p.want(false)
	cmd, ended := p.running, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-ended
	return nil
}

// Pause stops the process in its tracks until [Process.Resume].
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume has a paused process go on.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

// signal sends a signal; to a process that does not run it is no error.
func (p *Process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return nil
	}
	if err := p.running.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// PID is the process's ID, or 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return 0
	}
	return p.running.Process.Pid
}

// EndedAlone counts the ends that nobody asked for.
func (p *Process) EndedAlone() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alone
}

// FillDisk leaves no room on the process's disk until [Process.FreeDisk].
func (p *Process) FillDisk() error { return p.disk.fill() }

// FreeDisk makes room again.
func (p *Process) FreeDisk() error { return p.disk.free() }

// HasDisk reports whether the process keeps anything.
func (p *Process) HasDisk() bool { return p.disk.path != "" }

// Ready asks the process whether it can do its work.
func (p *Process) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Host.At(p.health)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s", p.Name, resp.Status)
	}
	return nil
}

// stop ends the process for good: well, if it can, else at once. NATS servers would wait
// for each other.
func (p *Process) stop() error {
	if p.Role == natsRole {
		if err := p.Kill(); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.want(false)
	cmd, ended := p.running, p.ended
	close(p.changed)
	p.changed = nil
	p.mu.Unlock()
	defer func() { <-p.over }()
	if cmd == nil {
		return nil
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		_ = cmd.Process.Signal(sig) // it may just have ended
	}
	bound := time.NewTimer(stopBound)
	defer bound.Stop()
	select {
	case <-ended:
		return nil
	case <-bound.C:
	}
	_ = cmd.Process.Kill()
	<-ended
	return fmt.Errorf("%s did not end within %s", p.Name, stopBound)
}

// Sane fails when the process wrote at a moment or later what no process may write.
func (p *Process) Sane(since time.Time) error {
	if err := p.Log.Sane(since); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}
