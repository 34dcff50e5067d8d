// Package docker makes containers with the Docker Engine API.
package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostnet"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
	"github.com/dayfly-run/dayfly/wire"
)

// Kind is this sandbox's name.
const Kind = "docker"

// Labels on everything that is ours. The owner's is the only thing that Sweep
// goes by.
const (
	labelOwner    = "run.dayfly.owner"
	labelInstance = "run.dayfly.instance"
)

// sweepers is how many containers Sweep removes at once.
const sweepers = 8

// Sandbox makes containers through one Docker Engine.
type Sandbox struct {
	owner  string
	client *client.Client
	log    *slog.Logger
	egress *egress
	lost   *lost
	bridge atomic.Pointer[string] // of openNetwork; nil until it was needed
	// importing holds one: imports of the same root would race.
	importing chan struct{}
	// warned has the engine's warnings that were logged already.
	warned sync.Map
}

// New connects to the engine that DOCKER_HOST names, or the local one. owner
// names the node in labels. It does not ask the engine anything; see Check.
func New(owner string, log *slog.Logger) (*Sandbox, error) {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("docker: %w; check DOCKER_HOST", err)
	}
	return &Sandbox{owner: owner, client: c, log: log, egress: newEgress(owner, c, log), lost: &lost{names: map[string]struct{}{}}, importing: make(chan struct{}, 1)}, nil
}

// Kind returns "docker".
func (*Sandbox) Kind() string { return Kind }

// Check asks the engine whether it lives.
func (s *Sandbox) Check(ctx context.Context) error {
	_, err := s.client.Ping(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("docker: check: %w", context.Cause(ctx))
	}
	return fmt.Errorf("%w at %s: %w; start it (systemctl start docker, or dockerd) or set DOCKER_HOST",
		sandbox.ErrUnavailable, s.client.DaemonHost(), err)
}

// EnsureRoot imports the root as an image.
func (s *Sandbox) EnsureRoot(ctx context.Context, root sandbox.Root) error {
	if !root.Digest.Valid() {
		return fmt.Errorf("docker: root file system %q has no valid digest: %q", root.Name, root.Digest)
	}
	select {
	case s.importing <- struct{}{}:
		defer func() { <-s.importing }()
	case <-ctx.Done():
		return fmt.Errorf("docker: wait for another root file system: %w", context.Cause(ctx))
	}
	ref := reference(root)
	if _, err := s.client.ImageInspect(ctx, ref); err == nil {
		return nil
	} else if !errdefs.IsNotFound(err) {
		return s.wrap("inspect image "+ref, err)
	}
	tar, err := root.Open(ctx)
	if err != nil {
		return fmt.Errorf("root file system %s: %w", root.Name, err)
	}
	defer func() { _ = tar.Close() }()
	body, err := s.client.ImageImport(ctx, image.ImportSource{Source: tar, SourceName: "-"}, ref, image.ImportOptions{})
	if err != nil {
		return s.wrap("import image "+ref, err)
	}
	defer func() { _ = body.Close() }()
	// The engine reports a failed import inside the stream, so look afterwards.
	if err := drain(body); err != nil {
		return s.wrap("import image "+ref, err)
	}
	if _, err := s.client.ImageInspect(ctx, ref); err != nil {
		return s.wrap("import image "+ref, err)
	}
	return nil
}

// drain reads a stream to its end and fails when the engine reports an error in it.
func drain(r io.Reader) error {
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return err
	}
	if bytes.Contains(out, []byte(`"errorDetail"`)) {
		return fmt.Errorf("engine: %s", bytes.TrimSpace(out))
	}
	return nil
}

// Start creates and starts a container. A context that is done early ends it
// within the time that the engine takes for one request.
func (s *Sandbox) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	mode, err := s.networkMode(ctx, spec.Network)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("docker: create container: %w", context.Cause(ctx))
	}
	id, err := s.create(context.WithoutCancel(ctx), spec, mode)
	if err != nil {
		return nil, err
	}
	c := newInstance(s, id)
	err = context.Cause(ctx)
	if err == nil {
		err = c.start(ctx)
	}
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return nil, errors.Join(err, c.Remove(cleanup))
	}
	s.lost.collect(ctx, s.removeOurs) // the engine is there
	return c, nil
}

// create makes a container and returns its ID. The engine goes on creating when
// the caller hangs up, and then nobody would know the container; so the answer is
// awaited whatever became of the caller.
func (s *Sandbox) create(ctx context.Context, spec sandbox.Spec, mode container.NetworkMode) (string, error) {
	create, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	config, host := s.translate(spec)
	host.NetworkMode = mode
	name := containerName(spec.Instance)
	created, err := s.client.ContainerCreate(create, config, host, nil, nil, name)
	for _, w := range created.Warnings {
		if _, known := s.warned.LoadOrStore(w, true); !known {
			s.log.Warn("the engine warns; limits of containers may not be in force", "warning", w)
		}
	}
	if err == nil {
		return created.ID, nil
	}
	if errdefs.IsNotFound(err) {
		return "", fmt.Errorf("docker: create container: %w: %w", sandbox.ErrNoRoot, err)
	}
	err = s.wrap("create container", err)
	if errors.Is(err, sandbox.ErrUnavailable) || create.Err() != nil {
		// No answer: it may be there all the same.
		cleanup, cancel := context.WithTimeout(ctx, cleanupTimeout)
		defer cancel()
		left := s.removeOurs(cleanup, name)
		if left != nil {
			s.lost.add(name)
		}
		err = errors.Join(err, left)
	}
	return "", err
}

func containerName(id wire.InstanceID) string { return "dayfly-" + string(id) }

func (s *Sandbox) networkMode(ctx context.Context, n sandbox.Network) (container.NetworkMode, error) {
	switch n {
	case sandbox.NetworkNone:
		return "none", nil
	case sandbox.NetworkOpen:
		return openNetwork, s.steadyBridge(ctx)
	case sandbox.NetworkEgress:
		name, err := s.egress.ensure(ctx)
		if err != nil {
			return "", s.wrap("prepare the egress network", err)
		}
		return container.NetworkMode(name), nil
	}
	return "", fmt.Errorf("docker: unknown network %q", n)
}

// openNetwork is the engine's own network.
const openNetwork = "bridge"

// steadyBridge lets the bridge of the engine's own network keep its address, which it
// does not by itself when somebody else made it.
func (s *Sandbox) steadyBridge(ctx context.Context) error {
	name := s.bridge.Load()
	if name == nil {
		found, err := s.client.NetworkInspect(ctx, openNetwork, network.InspectOptions{})
		if err != nil {
			return s.wrap("inspect network "+openNetwork, err)
		}
		bridge := found.Options["com.docker.network.bridge.name"]
		name = &bridge
		s.bridge.Store(name)
	}
	return s.wrap("prepare network "+openNetwork, hostnet.Steady(*name))
}

// Sweep removes the containers and networks that carry the owner's label.
func (s *Sandbox) Sweep(ctx context.Context) (int, error) {
	list, err := s.client.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelOwner+"="+s.owner)),
	})
	if err != nil {
		return 0, s.wrap("list containers", err)
	}
	var (
		mu      sync.Mutex
		removed int   // guarded by mu
		errs    error // guarded by mu
		group   errgroup.Group
	)
	group.SetLimit(sweepers)
	ids := make([]string, 0, len(list))
	for _, c := range list {
		ids = append(ids, c.ID)
		group.Go(func() error {
			err := s.remove(ctx, c.ID)
			mu.Lock()
			defer mu.Unlock()
			if errs = errors.Join(errs, err); err == nil {
				removed++
			}
			return nil // the others go on
		})
	}
	_ = group.Wait()
	left := hostproc.KillAll(ids...) // what an engine that was stopped meanwhile knows nothing of
	return removed, errors.Join(errs, left, s.sweepImages(ctx), s.removeEgress(ctx))
}

// Close removes what failed starts left, and the egress network, and closes the
// connection. What the engine refuses to remove is left to the next run's Sweep.
func (s *Sandbox) Close(ctx context.Context) error {
	if err := s.lost.close(ctx, s.removeOurs); err != nil {
		s.log.Warn("a container that the engine had lost is not removed", "error", err)
	}
	return errors.Join(s.removeEgress(ctx), s.client.Close())
}

func (s *Sandbox) removeEgress(ctx context.Context) error {
	return s.wrap("remove the egress network", s.egress.remove(ctx))
}

// removeOurs removes the container of that name or ID if it is the owner's, with what an
// engine that was stopped meanwhile knows nothing of.
func (s *Sandbox) removeOurs(ctx context.Context, name string) error {
	info, err := s.client.ContainerInspect(ctx, name)
	switch {
	case errdefs.IsNotFound(err) && hostproc.WholeID(name): // only ours are known by it
		return hostproc.KillAll(name)
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return s.wrap("inspect container", err)
	case info.Config.Labels[labelOwner] != s.owner:
		return nil
	}
	err = s.remove(ctx, info.ID)
	return errors.Join(err, hostproc.KillAll(info.ID))
}

// remove force-removes a container and returns once it is gone; one that is gone
// already is no error. It outlasts an engine's restart, within removeTimeout.
func (s *Sandbox) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	const most = time.Second
	pause := 20 * time.Millisecond
	for refusals := 0; ; {
		err := s.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		// A conflict is somebody else's removal at work: it is awaited here. Other
		// refusals are most often a file system that is still in use.
		err = s.wrap("remove container", err)
		if !errors.Is(err, sandbox.ErrUnavailable) && !errdefs.IsConflict(err) {
			refusals++
			release(id, err)
		}
		if refusals == maxRefusals {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
			pause = min(2*pause, most)
		}
	}
}

// maxRefusals is how often an engine may refuse to remove a container.
const maxRefusals = 5

// wrap names the operation, and tells an engine that does not answer from one
// that refuses.
func (s *Sandbox) wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case unanswered(err):
		return fmt.Errorf("docker: %s: %w: %w", what, sandbox.ErrUnavailable, err)
	}
	return fmt.Errorf("docker: %s: %w", what, err)
}

// wrapStart is wrap for a container that did not start. An engine that says that the
// failure is its own, as one does that cannot mount what it had before it was killed, may
// start the next one.
func (s *Sandbox) wrapStart(err error) error {
	if errdefs.IsInternal(err) {
		err = fmt.Errorf("%w: %w", sandbox.ErrUnavailable, err)
	}
	return s.wrap("start container", err)
}

// unanswered reports whether the engine was not reached, or was lost in the
// middle of an answer, or has lost its own back end because it stops or starts.
func unanswered(err error) bool {
	return client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		withoutBackEnd(err.Error())
}

// withoutBackEnd recognises what an engine says in an internal error when its
// connection to containerd is closed; it has no code for it.
func withoutBackEnd(message string) bool {
	return strings.Contains(message, "the client connection is closing") || strings.Contains(message, "transport is closing") ||
		strings.Contains(message, "error while dialing")
}
