// Package docker makes containers with the Docker Engine API.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
	"github.com/docker/go-units"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// Kind is this sandbox's name.
const Kind = "docker"

// Labels on everything that is ours. The owner's is the only thing that Sweep
// goes by.
const (
	labelOwner    = "run.dayfly.owner"
	labelInstance = "run.dayfly.instance"
)

// Sandbox makes containers through one Docker Engine.
type Sandbox struct {
	owner  string
	client *client.Client
	log    *slog.Logger
	egress *egress

	importing sync.Mutex // one root at a time: imports of the same one would race
}

// New connects to the engine that DOCKER_HOST names, or the local one. owner
// names the node in labels. It does not ask the engine anything; see Check.
func New(owner string, log *slog.Logger) (*Sandbox, error) {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("docker: %w; check DOCKER_HOST", err)
	}
	return &Sandbox{owner: owner, client: c, log: log, egress: newEgress(owner, c)}, nil
}

// Kind returns "docker".
func (*Sandbox) Kind() string { return Kind }

// Check asks the engine whether it lives.
func (s *Sandbox) Check(ctx context.Context) error {
	if _, err := s.client.Ping(ctx); err != nil {
		return fmt.Errorf("%w at %s: %w; start it (systemctl start docker, or dockerd) or set DOCKER_HOST",
			sandbox.ErrUnavailable, s.client.DaemonHost(), err)
	}
	return nil
}

// reference is the image that holds a root.
func reference(r sandbox.Root) string { return "dayfly-root-" + r.Name + ":" + string(r.Digest[:12]) }

// EnsureRoot imports the root as an image.
func (s *Sandbox) EnsureRoot(ctx context.Context, root sandbox.Root) error {
	s.importing.Lock()
	defer s.importing.Unlock()
	ref := reference(root)
	if _, err := s.client.ImageInspect(ctx, ref); err == nil {
		return nil
	} else if !isNotFound(err) {
		return s.wrap("inspect image "+ref, err)
	}
	tar, err := root.Open(ctx)
	if err != nil {
		return fmt.Errorf("root file system %s: %w", root.Name, err)
	}
	defer tar.Close()
	body, err := s.client.ImageImport(ctx, image.ImportSource{Source: tar, SourceName: "-"}, ref, image.ImportOptions{})
	if err != nil {
		return s.wrap("import image "+ref, err)
	}
	defer body.Close()
	// The engine reports a failed import inside the stream, so look afterwards.
	if err := drain(body); err != nil {
		return s.wrap("import image "+ref, err)
	}
	if _, err := s.client.ImageInspect(ctx, ref); err != nil {
		return s.wrap("import image "+ref, err)
	}
	return nil
}

// Start creates and starts a container.
func (s *Sandbox) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error) {
	network, err := s.networkMode(ctx, spec.Network)
	if err != nil {
		return nil, err
	}
	config, host := s.translate(spec)
	host.NetworkMode = network
	created, err := s.client.ContainerCreate(ctx, config, host, nil, nil, "dayfly-"+string(spec.Instance))
	if err != nil {
		return nil, s.wrap("create container", err)
	}
	c := &instance{id: created.ID, sandbox: s, exited: make(chan struct{})}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Remove(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func (s *Sandbox) networkMode(ctx context.Context, n sandbox.Network) (container.NetworkMode, error) {
	switch n {
	case sandbox.NetworkNone:
		return "none", nil
	case sandbox.NetworkOpen:
		return "bridge", nil
	case sandbox.NetworkEgress:
		name, err := s.egress.ensure(ctx)
		if err != nil {
			return "", s.wrap("prepare the egress network", err)
		}
		return container.NetworkMode(name), nil
	}
	return "", fmt.Errorf("docker: no network %q", n)
}

// translate turns a spec into the engine's two structures. Nothing that the
// function does not need is left to it.
func (s *Sandbox) translate(spec sandbox.Spec) (*container.Config, *container.HostConfig) {
	config := &container.Config{
		Image: reference(spec.Root), Entrypoint: spec.Command[:1], Cmd: spec.Command[1:], Env: spec.Env,
		WorkingDir: spec.WorkDir, User: strconv.Itoa(spec.UID) + ":" + strconv.Itoa(spec.GID),
		Hostname: "dayfly", NetworkDisabled: spec.Network == sandbox.NetworkNone,
		Labels: map[string]string{labelOwner: s.owner, labelInstance: string(spec.Instance)},
	}
	tmpfs := map[string]string{}
	for _, t := range spec.Tmpfs {
		exec := "noexec"
		if t.Exec {
			exec = "exec"
		}
		tmpfs[t.Target] = fmt.Sprintf("rw,nosuid,nodev,%s,size=%d,mode=%o", exec, t.Bytes, unixMode(t.Mode))
	}
	var mounts []mount.Mount
	for _, m := range spec.Mounts {
		mounts = append(mounts, mount.Mount{
			Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
		})
	}
	l := spec.Limits
	host := &container.HostConfig{
		ReadonlyRootfs: !spec.WritableRoot,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges"},
		IpcMode:        container.IPCModePrivate,
		ShmSize:        16 << 20,
		Tmpfs:          tmpfs,
		Mounts:         mounts,
		LogConfig:      container.LogConfig{Type: "none"},
		OomScoreAdj:    500, // the host's own processes go last
		Resources: container.Resources{
			Memory: l.MemoryBytes, MemorySwap: l.MemoryBytes,
			NanoCPUs:  l.CPUMillis * 1_000_000,
			CPUShares: max(2, l.CPUShareMillis*1024/1000),
			PidsLimit: &l.PIDs,
			Ulimits: []*units.Ulimit{
				{Name: "nofile", Soft: l.OpenFiles, Hard: l.OpenFiles},
				{Name: "fsize", Soft: l.FileBytes, Hard: l.FileBytes},
				{Name: "core", Soft: 0, Hard: 0},
			},
		},
	}
	return config, host
}

// Sweep removes the containers and networks that carry the owner's label.
func (s *Sandbox) Sweep(ctx context.Context) (int, error) {
	list, err := s.client.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelOwner+"="+s.owner)),
	})
	if err != nil {
		return 0, s.wrap("list containers", err)
	}
	var errs []error
	removed := 0
	for _, c := range list {
		if err := s.remove(ctx, c.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
	}
	return removed, errors.Join(append(errs, s.egress.remove(ctx))...)
}

// Close removes the egress network and closes the connection.
func (s *Sandbox) Close(ctx context.Context) error {
	return errors.Join(s.egress.remove(ctx), s.client.Close())
}

// remove force-removes a container; one that is gone is no error.
func (s *Sandbox) remove(ctx context.Context, id string) error {
	err := s.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if isNotFound(err) || (err != nil && strings.Contains(err.Error(), "is already in progress")) {
		return nil
	}
	return s.wrap("remove container", err)
}

// wrap names the operation, and tells an engine that does not answer from one
// that refuses.
func (s *Sandbox) wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("docker: %s: %w: %w", what, sandbox.ErrUnavailable, err)
	}
	return fmt.Errorf("docker: %s: %w", what, err)
}
