package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// Start makes a container and starts its command. What waits for its turn ends
// with ctx; what has begun is brought to its end, some milliseconds later.
func (s *Sandbox) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Container, err error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	root, err := s.holdRoot(spec.Root)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = root.Close()
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case s.starting <- struct{}{}:
		defer func() { <-s.starting }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for _, dir := range []string{s.state, s.bundles} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("oci: %w", err)
		}
	}
	id := string(spec.Instance)
	if err := os.Mkdir(filepath.Join(s.bundles, id), 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("oci: container %s is there already", id)
		}
		return nil, fmt.Errorf("oci: %w", err)
	}
	c, err := s.start(ctx, spec, root.Name())
	if err != nil {
		return nil, errors.Join(err, s.discard(context.WithoutCancel(ctx), id))
	}
	c.root = root
	return c, nil
}

func (s *Sandbox) start(ctx context.Context, spec sandbox.Spec, root string) (*container, error) {
	ns, resolvConf, err := s.join(ctx, spec.Network)
	if err != nil {
		return nil, err
	}
	defer ns.pool.refill()
	id := string(spec.Instance)
	bundle := filepath.Join(s.bundles, id)
	config := surroundings{
		root: root, netns: ns.path(), cgroup: s.cgroup(id), resolvConf: resolvConf,
		limitsSwap: s.limitsSwap, seccomp: s.seccomp, seccompBPF: s.seccompBPF,
	}
	if spec.WritableRoot {
		config.root = filepath.Join(bundle, "root")
	}
	pid, err := s.make(ctx, bundle, translate(spec, config), func() (func() error, error) {
		if !spec.WritableRoot {
			return nil, nil
		}
		return overlay(bundle, root, spec.Limits.MemoryBytes)
	})
	if err != nil {
		return nil, errors.Join(err, ns.close())
	}
	c := &container{id: id, sandbox: s, netns: ns, exited: make(chan struct{}), turn: make(chan struct{}, 1)}
	// Not yet reaped, the ID cannot have passed on.
	c.process, err = hostproc.Open(pid, s.cgroup(id))
	if err != nil && !errors.Is(err, sandbox.ErrEnded) {
		s.runtime.firsts.remove(pid)
		return nil, errors.Join(fmt.Errorf("oci: %w", err), ns.close())
	}
	go c.watch(pid)
	return c, nil
}

// join returns a namespace in the network, and what its /etc/resolv.conf is.
func (s *Sandbox) join(ctx context.Context, n sandbox.Network) (*netns, string, error) {
	if n == sandbox.NetworkNone {
		ns, err := s.alone.take(ctx)
		return ns, "", err
	}
	if network := s.networks[n]; network != nil {
		return network.join(ctx)
	}
	return nil, "", fmt.Errorf("oci: no network %q", n)
}

// make runs the runtime's program to start a container, and returns the ID of its
// first process. mount makes the container's own mounts, on the launcher's thread,
// and returns what undoes them there once the container has its copies.
func (s *Sandbox) make(ctx context.Context, bundle string, config *specs.Spec, mount func() (func() error, error)) (pid int, err error) {
	if err := writeConfig(bundle, config); err != nil {
		return 0, fmt.Errorf("oci: %w", err)
	}
	var running *run
	var undo func() error
	err = s.launcher.do(ctx, func() (err error) {
		if undo, err = mount(); err == nil {
			running, err = s.runtime.start(s.state, bundle)
		}
		return err
	})
	if err == nil {
		pid, err = running.wait()
	}
	if undo != nil {
		err = errors.Join(err, s.launcher.do(context.WithoutCancel(ctx), undo))
	}
	return pid, err
}

func writeConfig(bundle string, config *specs.Spec) error {
	content, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), content, 0o600)
}

// discard removes what a failed start left. Its processes became our children.
func (s *Sandbox) discard(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	left := s.cgroups.procs(s.cgroup(id))
	err := s.clear(ctx, id)
	for _, pid := range left {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
	return err
}

// overlay makes a root that can be written, in memory that counts against the
// container's, and returns what takes the mounts away again.
func overlay(bundle, root string, size int64) (func() error, error) {
	memory, merged := filepath.Join(bundle, "memory"), filepath.Join(bundle, "root")
	upper, work := filepath.Join(memory, "upper"), filepath.Join(memory, "work")
	undo := func() error {
		return errors.Join(unmount(merged), unmount(memory))
	}
	err := errors.Join(os.Mkdir(memory, 0o755), os.Mkdir(merged, 0o755))
	if err == nil {
		err = unix.Mount("tmpfs", memory, "tmpfs", unix.MS_NODEV, fmt.Sprintf("mode=755,size=%d", size))
	}
	if err == nil {
		err = errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755))
	}
	if err == nil {
		err = unix.Mount("overlay", merged, "overlay", unix.MS_NODEV, "lowerdir="+root+",upperdir="+upper+",workdir="+work)
	}
	if err != nil {
		return undo, fmt.Errorf("oci: make a root that can be written: %w", err)
	}
	return undo, nil
}

// unmount takes a mount away that may not be there.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
