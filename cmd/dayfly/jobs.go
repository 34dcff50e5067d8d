package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// Limits of a build container. What it writes to its folders is bounded by the builder;
// all other places where its user may write are in memory.
const (
	buildMemoryBytes = 3 << 30
	buildTmpBytes    = 2 << 30
	buildOtherBytes  = 64 << 20
	buildFileBytes   = 1 << 30
	buildDiskBytes   = 4 << 30
	buildPIDs        = 1024
	buildOpenFiles   = 4096
	jobLogMount      = "/run/dayfly"
	jobLogName       = "log"
)

// hostCertificates are the authorities that this machine trusts: a company's own
// proxy is trusted by builds as it is by the machine.
const hostCertificates = "/etc/ssl/certs/ca-certificates.crt"

// jobRunner runs build jobs in the sandbox that the wiring chose, so that the
// builder need not know any.
type jobRunner struct {
	sandbox sandbox.Sandbox
	root    func(context.Context, runtimes.Runtime) (sandbox.Root, error)
	dir     string
	cores   int64 // in thousandths
}

var _ builder.Runner = jobRunner{}

// Run implements [builder.Runner].
func (r jobRunner) Run(ctx context.Context, job builder.Job, out io.Writer) (err error) {
	rt, ok := runtimes.Lookup(job.Runtime)
	if !ok {
		return fmt.Errorf("no runtime %s", job.Runtime)
	}
	root, err := r.root(ctx, rt)
	if err == nil {
		err = r.sandbox.EnsureRoot(ctx, root)
	}
	if err != nil {
		return err
	}
	logDir, err := os.MkdirTemp(r.dir, "job-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(logDir)
	//nolint:gosec // the build user passes through
	if err := os.Chmod(logDir, 0o711); err != nil {
		return err
	}
	log, err := openJobLog(filepath.Join(logDir, jobLogName), out)
	if err != nil {
		return err
	}
	err = r.run(ctx, r.spec(job, root, logDir), out)
	return errors.Join(err, log.close())
}

// run runs a container to its end.
func (r jobRunner) run(ctx context.Context, spec sandbox.Spec, out io.Writer) (err error) {
	c, err := r.sandbox.Start(ctx, spec)
	if err != nil {
		return err
	}
	select {
	case <-c.Exited():
	case <-ctx.Done():
		c.Kill()
		err = context.Cause(ctx)
	}
	if e := c.Remove(context.WithoutCancel(ctx)); err == nil {
		err = e
	}
	exit := c.Exit()
	if err != nil || exit.Code == 0 {
		return err
	}
	if exit.OutOfMemory {
		_, err = fmt.Fprintf(out, "\nERROR: the build used more than its %d MiB of memory\n", buildMemoryBytes>>20)
	}
	return errors.Join(builder.ErrJob, err)
}

func (r jobRunner) spec(job builder.Job, root sandbox.Root, logDir string) sandbox.Spec {
	network := sandbox.NetworkNone
	mounts := []sandbox.Mount{{Source: logDir, Target: jobLogMount}}
	if job.Network {
		network = sandbox.NetworkOpen
		if _, err := os.Stat(hostCertificates); err == nil {
			mounts = append(mounts, sandbox.Mount{Source: hostCertificates, Target: hostCertificates, ReadOnly: true})
		}
	}
	for target, folder := range job.Folders {
		mounts = append(mounts, sandbox.Mount{Source: folder.Path, Target: target, ReadOnly: !folder.Writable})
	}
	tmpfs := func(target string, bytes int64) sandbox.Tmpfs {
		return sandbox.Tmpfs{Target: target, Bytes: bytes, Mode: 0o777 | os.ModeSticky, Exec: true}
	}
	return sandbox.Spec{
		Instance: wire.InstanceID("build-" + job.ID),
		Root:     root,
		Command:  []string{"/bin/sh", "-e", "-c", "exec >" + jobLogMount + "/" + jobLogName + " 2>&1\n" + job.Script},
		Env:      job.Env,
		WorkDir:  job.WorkDir,
		Mounts:   mounts,
		Tmpfs:    []sandbox.Tmpfs{tmpfs("/tmp", buildTmpBytes), tmpfs("/var/tmp", buildOtherBytes), tmpfs("/mnt/output", buildOtherBytes)},
		Limits: sandbox.Limits{
			MemoryBytes: buildMemoryBytes, CPUMillis: r.cores, CPUShareMillis: 1000,
			PIDs: buildPIDs, OpenFiles: buildOpenFiles, FileBytes: buildFileBytes,
		},
		Network: network,
		UID:     builder.BuildUID, GID: builder.BuildUID,
		WritableRoot: true, // mount points for the job's folders
	}
}

// jobLog is a pipe that a job prints into, so that what it prints is seen at once and
// takes no room on the disk.
type jobLog struct {
	end    *os.File // ours to write, so that there is no end before close
	copied sync.WaitGroup
	err    error // of copying
}

func openJobLog(path string, out io.Writer) (*jobLog, error) {
	const writable = 0o622
	if err := errors.Join(unix.Mkfifo(path, writable), os.Chmod(path, writable)); err != nil { // past the umask
		return nil, fmt.Errorf("make build log: %w", err)
	}
	in, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open build log: %w", err)
	}
	end, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open build log: %w", err), in.Close())
	}
	l := &jobLog{end: end}
	l.copied.Go(func() {
		_, err := io.Copy(out, in)
		l.err = errors.Join(err, in.Close())
	})
	return l, nil
}

// close waits for what was printed. The job has ended: nobody else writes any more.
func (l *jobLog) close() error {
	err := l.end.Close()
	l.copied.Wait()
	return errors.Join(err, l.err)
}
