// Package child starts this program again in other roles: each is a process, with a CPU
// time and a memory that are its own.
package child

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// roleVariable makes a program a child; its value is the role.
const roleVariable = "DAYFLY_BENCH_ROLE"

// stopBound is how long a child has to end once its input has ended.
const stopBound = 10 * time.Second

// Role is what [Start] started this process as; it is empty in a program that somebody
// else started. A child ends when its standard input does: its parent has stopped it, or
// died.
func Role() string { return os.Getenv(roleVariable) }

// Child is this program in another role. It is not safe for concurrent use.
type Child struct {
	// In is its standard input, Out its standard output.
	In  io.Writer
	Out io.Reader

	role string
	in   io.Closer
	cmd  *exec.Cmd
}

// Start starts a child with variables (NAME=value) beside those of this process. It is
// stopped by [Child.Stop], which must be called, and when ctx is done.
func Start(ctx context.Context, role string, env ...string) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(append(os.Environ(), roleVariable+"="+role), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the parent
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.WaitDelay = stopBound
	cmd.Cancel = func() error {
		_ = in.Close() // it may be closed already
		return nil
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return &Child{In: in, Out: out, role: role, in: in, cmd: cmd}, nil
}

// Stop ends the child's input and waits for its end, for ten seconds; then it is killed.
// It fails unless the child ended well.
func (c *Child) Stop() error {
	_ = c.in.Close() // it may be closed already
	defer time.AfterFunc(stopBound, func() { _ = c.cmd.Process.Kill() }).Stop()
	if err := c.cmd.Wait(); err != nil && (c.cmd.ProcessState == nil || !c.cmd.ProcessState.Success()) {
		return fmt.Errorf("%s: %w", c.role, err)
	}
	return nil
}
