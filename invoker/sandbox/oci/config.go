package oci

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

const (
	cpuPeriodMicros = 100_000
	shmSize         = "size=16777216"
	// oomScoreAdj: the host's own processes go last.
	oomScoreAdj = 500
	// bpfAnnotation gives crun a seccomp filter that is compiled already.
	bpfAnnotation = "run.oci.seccomp_bpf_data"
)

// maskedPaths tell of the host, readonlyPaths would change it.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// systemMounts are in every container, before its own.
var systemMounts = []specs.Mount{
	{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
	{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536"}},
	{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
	{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", shmSize}},
	{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	// Languages size their heaps and thread pools by the limits that they see here.
	{Destination: cgroupRoot, Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
}

var instancePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// check refuses a spec that the runtime would take to mean "no limit", or that
// leads out of the folders that are ours.
func check(spec sandbox.Spec) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("oci: "+format, args...)) }
	bound := func(what string, value int64) {
		if value <= 0 {
			fail("%s of container %s is %d, and must be more than 0", what, spec.Instance, value)
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
		if !path.IsAbs(t.Target) {
			fail("tmpfs %q of container %s is no absolute path", t.Target, spec.Instance)
		}
	}
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Target) || !path.IsAbs(m.Source) {
			fail("mount of %q at %q of container %s: both must be absolute paths", m.Source, m.Target, spec.Instance)
		} else if _, err := os.Stat(m.Source); err != nil {
			fail("mount of %q at %q of container %s: %w", m.Source, m.Target, spec.Instance, err)
		}
	}
	if !instancePattern.MatchString(string(spec.Instance)) {
		fail("%q cannot name a container", spec.Instance)
	}
	if len(spec.Command) == 0 {
		fail("container %s has no command", spec.Instance)
	}
	return errors.Join(append(errs, checkRoot(spec.Root))...)
}

// surroundings are what a container's configuration takes from its host.
type surroundings struct {
	root       string // folder
	netns      string // path of its network namespace
	cgroup     string
	resolvConf string // "" without a network
	limitsSwap bool
	seccomp    *specs.LinuxSeccomp
	seccompBPF string // the same compiled, in base64; "" when it is not known
}

// defaultSeccomp is Docker's profile, as for a process without capabilities, but
// for the machine's own instructions only, as on AWS Lambda: there are no 32-bit
// programs. Each further set makes the filter longer, and the kernel runs it once
// for every system call when a container starts: 3 ms less of 20.
func defaultSeccomp() (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		return nil, err
	}
	// The machine's own is the first, where there are several.
	profile.Architectures = profile.Architectures[:min(1, len(profile.Architectures))]
	return profile, nil
}

// translate turns a spec into the runtime's configuration. Nothing that the
// function does not need is left to it.
func translate(spec sandbox.Spec, s surroundings) *specs.Spec {
	config := &specs.Spec{
		Version:  "1.0.2", // the newest that all runtimes in use know
		Root:     &specs.Root{Path: s.root, Readonly: !spec.WritableRoot},
		Hostname: "dayfly",
		Mounts:   mounts(spec, s.resolvConf),
		Process: &specs.Process{
			Args: spec.Command, Env: spec.Env, Cwd: cmp.Or(spec.WorkDir, "/"),
			User:            specs.User{UID: uint32(spec.UID), GID: uint32(spec.GID)},
			Capabilities:    &specs.LinuxCapabilities{},
			NoNewPrivileges: true,
			OOMScoreAdj:     new(oomScoreAdj),
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: uint64(spec.Limits.OpenFiles), Hard: uint64(spec.Limits.OpenFiles)},
				{Type: "RLIMIT_FSIZE", Soft: uint64(spec.Limits.FileBytes), Hard: uint64(spec.Limits.FileBytes)},
				{Type: "RLIMIT_CORE"},
			},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: s.netns},
			},
			CgroupsPath:       s.cgroup,
			Resources:         resources(spec.Limits, s.limitsSwap),
			MaskedPaths:       maskedPaths,
			ReadonlyPaths:     readonlyPaths,
			RootfsPropagation: "rprivate",
			Seccomp:           s.seccomp,
		},
	}
	if s.seccompBPF != "" {
		config.Annotations = map[string]string{bpfAnnotation: s.seccompBPF}
		// The rest of the section stays: without it there would be no filter.
		config.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: s.seccomp.DefaultAction, Architectures: s.seccomp.Architectures}
	}
	return config
}

func resources(l sandbox.Limits, limitsSwap bool) *specs.LinuxResources {
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: &l.MemoryBytes},
		CPU: &specs.LinuxCPU{
			Period: new(uint64(cpuPeriodMicros)),
			Quota:  new(max(1000, l.CPUMillis*cpuPeriodMicros/1000)), // the kernel takes no less
			Shares: new(uint64(max(2, l.CPUShareMillis*1024/1000))),
		},
		Pids: &specs.LinuxPids{Limit: &l.PIDs},
	}
	if limitsSwap {
		r.Memory.Swap = &l.MemoryBytes // memory and swap together
	}
	return r
}

// mounts lists the container's mounts, those above others first.
func mounts(spec sandbox.Spec, resolvConf string) []specs.Mount {
	var own []specs.Mount
	if resolvConf != "" {
		own = append(own, bind(sandbox.Mount{Source: resolvConf, Target: "/etc/resolv.conf", ReadOnly: true}))
	}
	for _, t := range spec.Tmpfs {
		exec := "noexec"
		if t.Exec {
			exec = "exec"
		}
		own = append(own, specs.Mount{
			Destination: path.Clean(t.Target), Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "nodev", exec, fmt.Sprintf("size=%d", t.Bytes), fmt.Sprintf("mode=%o", unixMode(t.Mode))},
		})
	}
	for _, m := range spec.Mounts {
		own = append(own, bind(m))
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
	return slices.Concat(systemMounts, own)
}

// bind shows one folder without what is mounted below it: read-only would not
// hold for that.
func bind(m sandbox.Mount) specs.Mount {
	access := "rw"
	if m.ReadOnly {
		access = "ro"
	}
	return specs.Mount{
		Destination: path.Clean(m.Target), Type: "bind", Source: m.Source,
		Options: []string{"bind", "rprivate", "nosuid", "nodev", access},
	}
}

// unixMode is a file mode as the kernel writes it.
func unixMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&os.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}

// startsAtOnce is how many containers are made at the same time: more would wait
// for each other in the kernel.
func startsAtOnce() int { return 2 * runtime.GOMAXPROCS(0) }
