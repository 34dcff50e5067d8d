package embedtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

// serverEnv makes a test program a NATS server: it holds a [natsserver.Config] as JSON.
const serverEnv = "DAYFLY_TEST_NATS"

// What a server in a process of its own is asked, a line each. It answers with "true" or
// "false", and ends with its input, and so with the test program that started it.
const (
	askSettled = "settled"
	askLeads   = "leads " // and a stream
)

// RunServer runs a NATS server in this process, until it is told to end, if
// [NATSProcesses] started it for that; TestMain calls it first. It reports whether it did.
func RunServer() bool {
	text := os.Getenv(serverEnv)
	if text == "" {
		return false
	}
	var cfg natsserver.Config
	err := json.Unmarshal([]byte(text), &cfg)
	var s *natsserver.Server
	if err == nil {
		s, err = natsserver.Start(cfg, Discard())
	}
	if err != nil {
		fmt.Println(err)
		return true
	}
	defer s.Stop()
	fmt.Println(true)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		stream, leads := strings.CutPrefix(lines.Text(), askLeads)
		fmt.Println(leads && s.Leads(stream) || lines.Text() == askSettled && s.Settled())
	}
	return true
}

// process is a NATS server in a process of its own.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	// turn is held by whoever asks.
	turn   chan struct{}
	paused atomic.Bool
	end    func()
}

func startProcess(cfg natsserver.Config) (member, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), turn: make(chan struct{}, 1)}
	p.cmd.Env = append(os.Environ(), serverEnv+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	wait, err := StartTied(p.cmd)
	if err != nil {
		return nil, err
	}
	p.end = func() { _ = wait() } // how it ended is of no interest
	if p.out.Scan() && p.out.Text() == "true" {
		return p, nil
	}
	p.Kill()
	return nil, fmt.Errorf("NATS in a process of its own: %s", p.out.Text())
}

func (p *process) ask(question string) bool {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	if p.paused.Load() { // it would not answer
		return false
	}
	_, err := io.WriteString(p.in, question+"\n")
	return err == nil && p.out.Scan() && p.out.Text() == "true"
}

func (p *process) Settled() bool            { return p.ask(askSettled) }
func (p *process) Leads(stream string) bool { return p.ask(askLeads + stream) }

// Stop ends it in order, paused or not.
func (p *process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.in.Close()
	p.end()
}

// Kill ends it as the loss of its machine would.
func (p *process) Kill() {
	_ = p.cmd.Process.Kill()
	p.end()
}

// NATSProcesses is [NATSCluster] with servers that are processes of their own, which can
// be killed and paused. The package's TestMain must call [RunServer].
func NATSProcesses(tb testing.TB) *Cluster {
	tb.Helper()
	return startCluster(tb, startProcess)
}

// KillServer ends a server as the loss of its machine would. It must be a process of its
// own.
func (c *Cluster) KillServer(i int) {
	c.tb.Helper()
	if p := c.process(i); p != nil {
		c.mu.Lock()
		c.servers[i] = nil
		c.mu.Unlock()
		p.Kill()
	}
}

// PauseServer stops a server from doing anything, until resume is called. It must be a
// process of its own.
func (c *Cluster) PauseServer(i int) (resume func()) {
	c.tb.Helper()
	p := c.process(i)
	if p == nil {
		return func() {}
	}
	p.turn <- struct{}{} // nobody waits for its answer
	p.paused.Store(true)
	<-p.turn
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.tb.Error(err)
	}
	return sync.OnceFunc(func() {
		if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			c.tb.Error(err)
		}
		p.paused.Store(false)
	})
}

func (c *Cluster) process(i int) *process {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.servers[i].(*process)
	if !ok {
		c.tb.Errorf("server %d is no process", i)
	}
	return p
}
