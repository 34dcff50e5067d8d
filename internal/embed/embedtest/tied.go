package embedtest

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// StartTied starts a program that the kernel ends when this process ends, however it
// does: with the signal in cmd, or else SIGKILL, which ends one that is stopped as well.
// wait is [exec.Cmd.Wait]; it must be called, and may be more than once.
func StartTied(cmd *exec.Cmd) (wait func() error, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started, asked, ended := make(chan error), make(chan struct{}), make(chan error, 1)
	go func() {
		// To the kernel the parent is the thread, which has to outlive the program.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-asked
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return sync.OnceValue(func() error {
		close(asked)
		return <-ended
	}), nil
}
