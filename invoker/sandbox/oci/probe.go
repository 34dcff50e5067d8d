package oci

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// probeTimeout bounds the look at one runtime.
	probeTimeout = 20 * time.Second
	// probeStatus is the exit status of a container that is as it should be.
	probeStatus = 42
	// maxBPFBytes bounds a seccomp filter: the kernel takes 4096 instructions.
	maxBPFBytes = 8 * 4096
)

// probeScript ends with probeStatus if a seccomp filter is on.
const probeScript = `while read -r name value; do [ "$name $value" = "Seccomp: 2" ] && exit 42; done </proc/self/status; exit 1`

// candidates are tried in this order: crun takes a third of runc's time.
func candidates() []string { return []string{"crun", "runc"} }

// choose takes the runtime that was asked for, or the first that makes a
// container which works.
func (s *Sandbox) choose(wanted string) error {
	names := candidates()
	if wanted != "" {
		names = []string{wanted}
	}
	// Closed by Close.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	s.runtime.null = null
	var errs []error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err == nil {
			s.runtime = newProgram(path, null)
			err = s.try()
		}
		if err == nil {
			s.log.Info("found an OCI runtime", "runtime", path, "filterCompiled", s.seccompBPF != "", "passedOver", errors.Join(errs...))
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return fmt.Errorf("oci: no OCI runtime works here: %w; install crun (or runc) and run as root", errors.Join(errs...))
}

// try runs a container. crun leaves the seccomp filter that it compiled, which
// takes it twice as long as all else: if it then works with that, it gets it from
// now on.
func (s *Sandbox) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	s.seccompBPF = ""
	if s.runtime.forksTwice {
		if _, err := os.Stat(childrenFile()); err != nil {
			return fmt.Errorf("it leaves zombies on a kernel without CONFIG_PROC_CHILDREN: %w", err)
		}
	}
	filter, err := s.probe(ctx)
	if err != nil || filter == "" {
		return err
	}
	s.seccompBPF = filter
	if _, err := s.probe(ctx); err != nil {
		s.log.Warn("the runtime takes no compiled seccomp filter; starts will be slower", "runtime", s.runtime.path, "error", err)
		s.seccompBPF = ""
	}
	return nil
}

// probe runs a container with this machine's shell, and returns the seccomp filter
// that the runtime made for it, if it left it.
func (s *Sandbox) probe(ctx context.Context) (filter string, err error) {
	spec := sandbox.Spec{
		Instance: wire.InstanceID("probe-" + strings.ToLower(rand.Text())),
		Root:     sandbox.Root{Name: "probe", Digest: wire.Digest(strings.Repeat("0", 64))},
		Command:  []string{"/bin/sh", "-c", probeScript},
		WorkDir:  "/",
		Limits:   sandbox.Limits{MemoryBytes: 64 << 20, CPUMillis: 1000, CPUShareMillis: 1000, PIDs: 16, OpenFiles: 64, FileBytes: 1 << 20},
		Network:  sandbox.NetworkNone,
		UID:      65532, GID: 65532,
	}
	for _, dir := range []string{"/bin", "/lib", "/lib32", "/lib64", "/usr"} {
		if _, err := os.Stat(dir); err == nil {
			spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: dir, Target: dir, ReadOnly: true})
		}
	}
	if err := os.Mkdir(filepath.Join(s.roots, rootName(spec.Root)), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	c, err := s.Start(ctx, spec)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Remove(ctx)) }()
	select {
	case <-c.Exited():
	case <-ctx.Done():
		return "", fmt.Errorf("a container did not end: %w", context.Cause(ctx))
	}
	if exit := c.Exit(); exit.Code != probeStatus {
		return "", fmt.Errorf("a container ended with %+v, and not %d: it ran without a seccomp filter or not at all", exit, probeStatus)
	}
	content, err := os.ReadFile(filepath.Join(s.state, string(spec.Instance), "seccomp.bpf"))
	if err != nil || len(content) > maxBPFBytes {
		return "", nil // another runtime's way
	}
	return base64.StdEncoding.EncodeToString(content), nil
}
