// Package oci makes containers with an OCI runtime, crun or runc, without a
// daemon: one short run of a program for a container, and nothing of ours that
// stays beside it.
//
// The runtime is run detached, and its container is then our child: we are its
// subreaper. The other ways to an exit status cost more. A runtime that stays in
// the foreground holds 1.3 MB (crun) to 9 MB (runc) for each idle container, and a
// shim no less; asking the kernel through a pidfd needs Linux 6.15. The price is
// that orphans of other programs that this process starts come to it as well.
//
// The program is started by a few lines of our own rather than containerd/go-runc:
// the thread that starts it matters here (see launcher), and so does who reaps.
//
// All that a container consists of stands under one folder and one cgroup, both
// named after the owner, from which Sweep finds it after a crash. Network
// namespaces and mounts are held by this process only and go with it.
//
// It needs root and Linux 5.10; cgroup v1, v2 or both.
package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// Kind is this sandbox's name.
const Kind = "oci"

// Config configures a [Sandbox].
type Config struct {
	// Owner names the node; what it makes is named after it.
	Owner string
	// Dir is the folder for roots, which sandboxes may share, and for what belongs
	// to containers. It is made when it is not there. It must be an absolute path
	// without commas, colons and backslashes.
	Dir string
	// Runtime is the name or path of the OCI runtime's program. When it is empty,
	// it is the first that works of crun and runc.
	Runtime string
}

// Sandbox makes containers for one owner.
type Sandbox struct {
	owner, hash           string
	roots, state, bundles string // folders
	runtime               program
	launcher              *launcher
	cgroups               hierarchies
	limitsSwap            bool
	seccomp               *specs.LinuxSeccomp
	seccompBPF            string
	log                   *slog.Logger

	unpacking chan struct{} // holds one: two of the same root would race
	starting  chan struct{} // holds as many as may be made at once
	alone     *netPool
	networks  map[sandbox.Network]*network
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// New makes a sandbox, and runs a container to see that it can. Several for the
// same owner may exist, one after the other. It makes this process the one that
// inherits orphans; see the package's comment.
func New(cfg Config, log *slog.Logger) (_ *Sandbox, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("oci: it needs root: run as root, or with sudo")
	}
	if !filepath.IsAbs(cfg.Dir) || strings.ContainsAny(cfg.Dir, ",:\\") {
		return nil, fmt.Errorf("oci: folder %q must be an absolute path without commas, colons and backslashes", cfg.Dir)
	}
	sum := sha256.Sum256([]byte(cfg.Owner))
	hash := hex.EncodeToString(sum[:4])
	s := &Sandbox{
		owner: cfg.Owner, hash: hash, log: log,
		roots: filepath.Join(cfg.Dir, "roots"), state: filepath.Join(cfg.Dir, hash, "state"), bundles: filepath.Join(cfg.Dir, hash, "bundles"),
		unpacking: make(chan struct{}, 1), starting: make(chan struct{}, startsAtOnce()),
	}
	if err := os.MkdirAll(s.roots, 0o700); err != nil {
		return nil, fmt.Errorf("oci: %w", err)
	}
	mountinfo, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("oci: %w", err)
	}
	var hidden []string
	if s.cgroups, hidden = parseHierarchies(mountinfo); len(s.cgroups) == 0 {
		return nil, fmt.Errorf("oci: no cgroups at %s; mount them", cgroupRoot)
	}
	s.limitsSwap = s.cgroups.limitsSwap()
	if s.seccomp, err = defaultSeccomp(); err != nil {
		return nil, fmt.Errorf("oci: seccomp profile: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("oci: become the subreaper: %w", err)
	}
	if s.launcher, err = newLauncher(hidden); err != nil {
		return nil, err
	}
	s.alone = newNetPool(readyAlone, func() (*netns, error) { return newNetns(func() error { return nil }) }, log)
	s.networks = map[sandbox.Network]*network{
		sandbox.NetworkEgress: newNetwork(s, sandbox.NetworkEgress),
		sandbox.NetworkOpen:   newNetwork(s, sandbox.NetworkOpen),
	}
	if err := s.choose(cfg.Runtime); err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	return s, nil
}

// Kind returns "oci".
func (*Sandbox) Kind() string { return Kind }

// Runtime returns the path of the runtime's program.
func (s *Sandbox) Runtime() string { return s.runtime.path }

// Check looks whether the runtime's program is still there.
func (s *Sandbox) Check(context.Context) error {
	if _, err := os.Stat(s.runtime.path); err != nil {
		return fmt.Errorf("%w: OCI runtime: %w; install %s again", sandbox.ErrUnavailable, err, s.runtime.name)
	}
	return nil
}

// cgroup is the cgroup of a container, or of all of the owner's with no name.
func (s *Sandbox) cgroup(id string) string { return filepath.Join("/", cgroupTop, s.hash, id) }

// Sweep kills and removes what stands under the owner's cgroup and folder, and
// takes away its networks.
func (s *Sandbox) Sweep(ctx context.Context) (int, error) {
	found := map[string]struct{}{}
	groups, err := s.cgroups.children(s.cgroup(""))
	errs := []error{err}
	for _, id := range groups {
		found[id] = struct{}{}
	}
	for _, dir := range []string{s.bundles, s.state} {
		entries, err := os.ReadDir(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") { // a runtime's own
				found[e.Name()] = struct{}{}
			}
		}
	}
	removed := 0
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if err := s.clear(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
	}
	unfinished, err := filepath.Glob(filepath.Join(s.roots, unpackingPrefix+s.hash+"-*"))
	errs = append(errs, err)
	for _, dir := range unfinished {
		errs = append(errs, os.RemoveAll(dir))
	}
	for _, n := range s.networks {
		errs = append(errs, n.remove(ctx))
	}
	return removed, errors.Join(errs...)
}

// clear kills and removes all that there is of a container, known or not.
func (s *Sandbox) clear(ctx context.Context, id string) error {
	if err := s.cgroups.remove(ctx, s.cgroup(id)); err != nil {
		return err
	}
	// One that was not quite at its end when the container started is by now.
	s.runtime.reapHelpers()
	// The bundle last: it keeps the name taken.
	for _, dir := range []string{s.state, s.bundles} {
		if err := os.RemoveAll(filepath.Join(dir, id)); err != nil {
			return fmt.Errorf("oci: remove container %s: %w", id, err)
		}
	}
	return nil
}

// Close takes the networks, the owner's cgroup and folder away. Roots stay.
func (s *Sandbox) Close(ctx context.Context) error {
	errs := []error{s.alone.close()}
	for _, n := range s.networks {
		errs = append(errs, n.remove(ctx))
	}
	s.launcher.close()
	errs = append(errs, s.runtime.null.Close())
	s.cgroups.removeEmpty(s.cgroup(""))
	for _, dir := range []string{s.state, s.bundles, filepath.Dir(s.state)} {
		// What still has something in it is not ours to remove.
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
