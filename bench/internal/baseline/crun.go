package baseline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// unified is where a host with cgroup v1 may show an empty v2 tree too, which crun
// refuses.
const unified = "/sys/fs/cgroup/unified"

// Crun runs containers with the crun program. It is for one user at a time.
type Crun struct {
	bundle, state string
	runs          int
	jobs          chan func() // closed by Close
	gone          chan struct{}
}

// CrunMissing returns nil when there is a crun.
func CrunMissing() error {
	_, err := exec.LookPath("crun")
	return err
}

// OpenCrun prepares for containers; what it makes goes below dir. The caller closes it.
func OpenCrun(dir string) (*Crun, error) {
	c := &Crun{
		bundle: filepath.Join(dir, "crun", "bundle"), state: filepath.Join(dir, "crun", "state"),
		jobs: make(chan func()), gone: make(chan struct{}),
	}
	if err := errors.Join(os.MkdirAll(c.bundle, 0o700), os.MkdirAll(c.state, 0o700)); err != nil {
		return nil, err
	}
	ready := make(chan error)
	go c.thread(ready)
	return c, <-ready
}

// thread starts crun where the empty tree is not to be seen: a helper program that
// hides it would count as crun's time.
func (c *Crun) thread(ready chan<- error) {
	defer close(c.gone)
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if err == nil {
		if err = unix.Unmount(unified, unix.MNT_DETACH); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = nil
		}
	}
	ready <- err
	for job := range c.jobs {
		job()
	}
}

// Close ends the thread.
func (c *Crun) Close() {
	close(c.jobs)
	<-c.gone
}

// Run runs a command in a fresh container of a root file system, configured as
// `crun spec` does, and returns the time until its first byte of output.
func (c *Crun) Run(ctx context.Context, root string, command ...string) (time.Duration, error) {
	if err := c.configure(ctx, root, command); err != nil {
		return 0, err
	}
	c.runs++
	name := "dayfly-bench-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(c.runs)
	cmd := exec.CommandContext(ctx, "crun", "--root", c.state, "--cgroup-manager", "cgroupfs", "run", "--bundle", c.bundle, name)
	var took time.Duration
	var err error
	done := make(chan struct{})
	c.jobs <- func() {
		defer close(done)
		took, err = firstByte(cmd)
	}
	<-done
	return took, err
}

func (c *Crun) configure(ctx context.Context, root string, command []string) error {
	path := filepath.Join(c.bundle, "config.json")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if out, err := exec.CommandContext(ctx, "crun", "spec", "--bundle", c.bundle).CombinedOutput(); err != nil {
		return fmt.Errorf("crun spec: %w: %s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config specs.Spec
	if err := json.Unmarshal(content, &config); err != nil {
		return fmt.Errorf("crun spec: %w", err)
	}
	config.Process.Args, config.Process.Terminal = command, false
	config.Root.Path, config.Root.Readonly = root, true
	if content, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// StartAlone runs a command in a root file system without a container, and returns
// the time until its first byte of output.
func StartAlone(ctx context.Context, root string, command ...string) (time.Duration, error) {
	return firstByte(Alone(ctx, root, command...))
}

// Alone makes a command in a root file system that runs without a container.
func Alone(ctx context.Context, root string, command ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// firstByte runs a command to its end and returns the time until its first byte of
// output.
func firstByte(cmd *exec.Cmd) (time.Duration, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%s: %w", cmd.Path, err)
	}
	_, err = io.ReadFull(stdout, make([]byte, 1))
	took := time.Since(begun)
	_, restErr := io.Copy(io.Discard, stdout)
	if err := errors.Join(err, restErr, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return took, nil
}
