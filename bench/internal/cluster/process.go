package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// stopBound is how long a process may take to end its work before it is killed.
const stopBound = 90 * time.Second

// tailBytes is how much of a process's log an error shows.
const tailBytes = 2000

// process is one running dayfly.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // valid once exited is closed
}

func launch(binary, log string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// In a group of its own, so that Ctrl-C reaches it through stop alone; and it
	// is told when this process dies without stopping it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dayfly %s: %w", args[0], err)
	}
	p := &process{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// ended says how the process ended, or nil while it runs.
func (p *process) ended() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended (%v); its last words:\n%s", p.cmd.Args[:2], p.err, tail(p.log))
	default:
		return nil
	}
}

func (p *process) stop() error {
	if err := p.ended(); err != nil {
		return err
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
	select {
	case <-p.exited:
	case <-time.After(stopBound):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w; its last words:\n%s", p.cmd.Args[:2], p.err, tail(p.log))
	}
	return nil
}

func tail(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return data[max(0, len(data)-tailBytes):]
}

func coldCall(ctx context.Context, client *http.Client, url string) (took, start time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	resp, err := client.Do(req)
	took = time.Since(begun)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("GET %s: %w", url, err)
	case resp.StatusCode != http.StatusOK:
		return 0, 0, fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	case resp.Header.Get(wire.HeaderCold) != "true":
		return 0, 0, fmt.Errorf("GET %s was answered by a warm instance", url)
	}
	micros, err := strconv.ParseInt(resp.Header.Get(wire.HeaderInitMicros), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("GET %s: header %s: %w", url, wire.HeaderInitMicros, err)
	}
	return took, time.Duration(micros) * time.Microsecond, nil
}
