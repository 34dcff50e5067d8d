package runtimes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// mmdebstrapOptions are those that do not depend on where a root is made.
// Nothing is configured, only unpacked: the recipe does the rest, and also
// cleans up. The container engine fills /dev.
var mmdebstrapOptions = []string{
	"--variant=extract", "--format=tar", "--skip=cleanup", "--skip=output/dev",
	`--aptopt=APT::Sandbox::User "root"`, `--aptopt=Acquire::Retries "3"`,
}

// stopGrace is how long mmdebstrap may take to unmount what it mounted.
const stopGrace = 10 * time.Second

// BuildRoot makes the root file system of r as a tar at path, in some 5 to 10
// seconds, out of Debian packages from the mirror that the host uses itself. It
// needs root and the program mmdebstrap. What it does goes to log line by line.
// The tar appears at path complete or not at all; several calls may run at once.
// When ctx is done it stops, cleans up and returns the context's cause.
func BuildRoot(ctx context.Context, r Runtime, path string, log io.Writer) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build the %s root file system: %w", r.Root(), err)
		}
	}()
	if os.Geteuid() != 0 {
		return errors.New("it needs root: run as root, or with sudo")
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return errors.New("mmdebstrap is missing: install it with `apt-get install mmdebstrap`")
	}
	mirrors, err := hostMirrors("/etc/apt")
	if err != nil {
		return err
	}
	// In path's own folder, so that the last step is a rename.
	work, err := os.MkdirTemp(filepath.Dir(path), ".root-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	tar := filepath.Join(work, "root.tar")
	args, err := mmdebstrapArgs(ctx, r, work, tar, mirrors)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "%s root: unpacking %s and what they need (Debian %s)\n", r.Root(), strings.Join(r.Packages, ", "), Suite)
	if err := runMmdebstrap(ctx, program, args, work, log); err != nil {
		return err
	}
	info, err := os.Stat(tar)
	if err != nil {
		return err
	}
	if err := os.Rename(tar, path); err != nil {
		return err
	}
	fmt.Fprintf(log, "%s root: done, %d MB\n", r.Root(), info.Size()>>20)
	return nil
}

// mmdebstrapArgs writes the recipe's scripts into work and returns the command
// line that uses them.
func mmdebstrapArgs(ctx context.Context, r Runtime, work, tar string, mirrors []string) ([]string, error) {
	args := append([]string{}, mmdebstrapOptions...)
	for _, hook := range []struct {
		option, name string
		script       []byte
	}{{"--setup-hook", "setup.sh", setupScript}, {"--extract-hook", "customize.sh", customizeScript}} {
		file := filepath.Join(work, hook.name)
		if err := os.WriteFile(file, hook.script, 0o600); err != nil {
			return nil, err
		}
		args = append(args, hook.option+"=sh "+shellQuote(file)+` "$1"`)
	}
	settings := filepath.Join(work, "apt.conf")
	if err := os.WriteFile(settings, hostAptSettings(ctx), 0o600); err != nil {
		return nil, err
	}
	args = append(args, "--aptopt="+settings, "--include="+strings.Join(r.Packages, ","), Suite, tar)
	return append(args, mirrors...), nil
}

// hostAptSettings returns how the host's apt reaches its mirrors: proxies and
// the like. mmdebstrap reads none of it. A host without apt-config has none.
func hostAptSettings(ctx context.Context) []byte {
	settings, err := exec.CommandContext(ctx, "apt-config", "dump", "Acquire::http", "Acquire::https",
		"Acquire::Check-Valid-Until", "Acquire::Check-Date").Output()
	if err != nil {
		return nil
	}
	return settings
}

func runMmdebstrap(ctx context.Context, program string, args []string, work string, log io.Writer) error {
	tail := &tailWriter{max: 4 << 10}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+work, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout = io.MultiWriter(log, tail)
	cmd.Stderr = cmd.Stdout
	// It starts others, and unmounts what it mounted when it is asked to stop.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("mmdebstrap failed (%w); check that the Debian mirror in /etc/apt can be reached. Its last words:\n%s", err, tail)
	}
	return nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// tailWriter keeps the last bytes that were written to it.
type tailWriter struct {
	max int
	buf []byte
}

// Write never fails.
func (t *tailWriter) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tailWriter) String() string { return string(bytes.TrimSpace(t.buf)) }
