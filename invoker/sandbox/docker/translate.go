package docker

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-units"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// check refuses a spec that the engine would take to mean "no limit".
func check(spec sandbox.Spec) error {
	var errs []error
	bound := func(what string, value int64) {
		if value <= 0 {
			errs = append(errs, fmt.Errorf("docker: %s of container %s is %d, and must be more than 0", what, spec.Instance, value))
		}
	}
	l := spec.Limits
	bound("memory limit", l.MemoryBytes)
	bound("CPU limit", l.CPUMillis)
	bound("process limit", l.PIDs)
	bound("open files limit", l.OpenFiles)
	bound("file size limit", l.FileBytes)
	for _, t := range spec.Tmpfs {
		bound("size of tmpfs "+t.Target, t.Bytes)
	}
	if len(spec.Command) == 0 {
		errs = append(errs, fmt.Errorf("docker: container %s has no command", spec.Instance))
	}
	if !spec.Root.Digest.Valid() {
		errs = append(errs, fmt.Errorf("docker: root file system %q has no valid digest: %q", spec.Root.Name, spec.Root.Digest))
	}
	return errors.Join(errs...)
}

// translate turns a spec into the engine's two structures. Nothing that the
// function does not need is left to it.
func (s *Sandbox) translate(spec sandbox.Spec) (*container.Config, *container.HostConfig) {
	config := &container.Config{
		Image: reference(spec.Root), Entrypoint: spec.Command[:1], Cmd: spec.Command[1:], Env: spec.Env,
		WorkingDir: spec.WorkDir, User: strconv.Itoa(spec.UID) + ":" + strconv.Itoa(spec.GID),
		Hostname: "dayfly", NetworkDisabled: spec.Network == sandbox.NetworkNone,
		// An engine that is stopped must not wait for processes that heed no other.
		StopSignal: "SIGKILL",
		Labels:     map[string]string{labelOwner: s.owner, labelInstance: string(spec.Instance)},
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
		SecurityOpt:    []string{"no-new-privileges"}, // seccomp is on unless it is named here
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

// unixMode is a file mode as the kernel writes it.
func unixMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&os.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
