package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/docker"
	"github.com/dayfly-run/dayfly/invoker/sandbox/oci"
	"github.com/dayfly-run/dayfly/wire"
)

// probeBound limits asking whether a Docker Engine answers.
const probeBound = 5 * time.Second

// openSandbox opens the sandbox that was asked for, or the one that this machine has.
func (p *process) openSandbox(owner string, log *slog.Logger) (sandbox.Sandbox, error) {
	openOCI := func() (sandbox.Sandbox, error) {
		return oci.New(oci.Config{Owner: owner, Dir: filepath.Join(p.dir, oci.Kind), Runtime: p.cfg.OCIRuntime}, log)
	}
	switch p.cfg.Sandbox {
	case oci.Kind:
		return openOCI()
	case docker.Kind, "":
	default:
		return nil, wire.Errorf(wire.CodeInvalid, "--sandbox %s: use %s or %s", p.cfg.Sandbox, docker.Kind, oci.Kind)
	}
	engine, err := docker.New(owner, log)
	if err != nil || p.cfg.Sandbox == docker.Kind {
		return engine, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeBound)
	defer cancel()
	missing := engine.Check(ctx)
	if missing == nil {
		log.Info("containers are made by the Docker Engine; --sandbox chooses")
		return engine, nil
	}
	daemonless, err := openOCI()
	if err != nil {
		return nil, fmt.Errorf("nothing on this machine makes containers: %w; %w", missing, err)
	}
	log.Info("no Docker Engine answers: containers are made by an OCI runtime; --sandbox chooses")
	return daemonless, nil
}

// Limits of a build container.
const (
	buildMemoryBytes = 3 << 30
	buildTmpBytes    = 2 << 30
	buildFileBytes   = 1 << 30
	buildPIDs        = 1024
	buildOpenFiles   = 4096
	// jobLogBytes bounds what is read of a job's output.
	jobLogBytes = 1 << 20
	jobLogMount = "/run/dayfly"
)

// hostCertificates are the authorities that this machine trusts: a company's own
// proxy is trusted by builds as it is by the machine.
const hostCertificates = "/etc/ssl/certs/ca-certificates.crt"

// jobRunner runs build jobs in the sandbox that the wiring chose, so that the
// builder need not know any.
type jobRunner struct {
	sandbox sandbox.Sandbox
	root    func(context.Context) (sandbox.Root, error)
	dir     string
	cores   int64 // in thousandths
}

var _ builder.Runner = jobRunner{}

// Run implements [builder.Runner].
func (r jobRunner) Run(ctx context.Context, job builder.Job) (output string, err error) {
	root, err := r.root(ctx)
	if err == nil {
		err = r.sandbox.EnsureRoot(ctx, root)
	}
	if err != nil {
		return "", err
	}
	logDir, err := os.MkdirTemp(r.dir, "job-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(logDir)
	logPath := filepath.Join(logDir, "log")
	if err := os.WriteFile(logPath, nil, 0o600); err != nil {
		return "", err
	}
	for path, mode := range map[string]os.FileMode{logDir: 0o711, logPath: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			return "", err
		}
	}
	c, err := r.sandbox.Start(ctx, r.spec(job, root, logDir))
	if err != nil {
		return "", err
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
	output, e := readHead(logPath, jobLogBytes)
	if err == nil {
		err = e
	}
	if exit := c.Exit(); err == nil && exit.Code != 0 {
		err = builder.ErrJob
		if exit.OutOfMemory {
			output += fmt.Sprintf("\nthe build used more than its %d MiB of memory", buildMemoryBytes>>20)
		}
	}
	return output, err
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
	return sandbox.Spec{
		Instance: wire.InstanceID("build-" + job.ID),
		Root:     root,
		Command:  []string{"/bin/sh", "-e", "-c", "exec >>" + jobLogMount + "/log 2>&1\n" + job.Script},
		Env:      job.Env,
		WorkDir:  job.WorkDir,
		Mounts:   mounts,
		Tmpfs:    []sandbox.Tmpfs{{Target: "/tmp", Bytes: buildTmpBytes, Mode: 0o777 | os.ModeSticky, Exec: true}},
		Limits: sandbox.Limits{
			MemoryBytes: buildMemoryBytes, CPUMillis: r.cores, CPUShareMillis: 1000,
			PIDs: buildPIDs, OpenFiles: buildOpenFiles, FileBytes: buildFileBytes,
		},
		Network: network,
		UID:     builder.BuildUID, GID: builder.BuildUID,
		WritableRoot: true, // mount points for the job's folders
	}
}

// readHead reads at most limit bytes of a file.
func readHead(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return string(data), err
}
