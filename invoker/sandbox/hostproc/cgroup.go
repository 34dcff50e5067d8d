package hostproc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// cgroupRoot is where control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// cpuPeriodMicros is the length of one period of the CPU quota.
const cpuPeriodMicros = 100_000

// SetLimits writes memory, CPU and process limits into the control group of a
// container's first process, on cgroup v1 and v2. A memory limit below what is in
// use already is refused by the kernel and an error here.
func (p *Process) SetLimits(l sandbox.Limits) error {
	if err := p.alive(); err != nil {
		return err
	}
	// Those that it was in when it was opened: a process that is about to end counts
	// as one of the root's, and the machine would be limited.
	for _, w := range limitWrites(p.groups, l) {
		if err := w.apply(); err != nil {
			return errors.Join(p.alive(), err)
		}
	}
	return p.alive()
}

// oomNoteDelay bounds how long after a control group's removal the kernel says so, from
// a work queue of its own.
const oomNoteDelay = 100 * time.Millisecond

// WatchOOM lets [Process.OOMKilled] know of ends for want of memory also when the control
// group is removed before it looks, as engines do soon after the process's end. Only
// cgroup v1 has the means; on v2 it does nothing. Call it before others have the Process.
//
// https://docs.kernel.org/admin-guide/cgroup-v1/memory.html#oom-control
func (p *Process) WatchOOM() error {
	if p == nil {
		return sandbox.ErrEnded
	}
	dir, ok := p.groups["memory"]
	if !ok {
		return nil
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return errors.Join(p.alive(), err)
	}
	defer func() { _ = control.Close() }()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	notes := os.NewFile(uintptr(fd), "eventfd")
	err = os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0)
	if err != nil {
		return errors.Join(p.alive(), err, notes.Close())
	}
	p.oom = notes
	return nil
}

// OOMKilled reports whether the kernel ended processes for memory in the control group
// that the process was in when it was opened. It is of use after the process's own end
// and before Close. Where the group is gone, only what WatchOOM noted is known; that may
// take 100 ms.
func (p *Process) OOMKilled() bool {
	if p == nil {
		return false
	}
	file := filepath.Join(p.groups[""], "memory.events")
	if dir, ok := p.groups["memory"]; ok {
		file = filepath.Join(dir, "memory.oom_control")
	}
	n, err := oomKills(file)
	if err == nil || p.oom == nil {
		return n > 0
	}
	// The kernel counts one up for each time that memory ran out, and one for the removal.
	_ = p.oom.SetReadDeadline(time.Now().Add(oomNoteDelay))
	for noted := uint64(0); noted < 2; {
		var more [8]byte
		if _, err := p.oom.Read(more[:]); err != nil {
			return false
		}
		noted += binary.NativeEndian.Uint64(more[:])
	}
	return true
}

// OOMKills reads the kernel's count of such ends from a control group's
// memory.events (v2) or memory.oom_control (v1, Linux 4.13); 0 when it is not there.
func OOMKills(file string) int {
	n, _ := oomKills(file)
	return n
}

// oomKills is OOMKills that fails when the file cannot be read.
func oomKills(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "oom_kill" {
			n, err := strconv.Atoi(fields[1])
			if err == nil {
				return n, nil
			}
		}
	}
	return 0, nil
}

// limitWrite is a value for the first of some files that is there; in order,
// because v1 has the limits of memory, and of memory and swap, in two files of
// which the second must not be less.
type limitWrite struct {
	what     string
	files    []string
	value    string
	optional bool
}

func (w limitWrite) apply() error {
	for _, file := range w.files {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = f.WriteString(w.value)
			err = errors.Join(err, f.Close())
		}
		if err != nil && !w.optional {
			if errors.Is(err, syscall.EBUSY) {
				return fmt.Errorf("set %s to %s: %w", w.what, w.value, sandbox.ErrOverLimit)
			}
			return fmt.Errorf("set %s to %s: %w", w.what, w.value, err)
		}
		return nil
	}
	return nil // a kernel without that controller does not limit
}

// limitWrites says what to write where. On v1 the memory-and-swap limit is raised
// first and set again after the memory limit, because each bounds the other.
func limitWrites(paths map[string]string, l sandbox.Limits) []limitWrite {
	at := func(controller, name string) string {
		dir, ok := paths[controller]
		if !ok {
			return filepath.Join(cgroupRoot, "none", name)
		}
		return filepath.Join(dir, name)
	}
	unified := func(name string) string { return at("", name) }
	memory := strconv.FormatInt(l.MemoryBytes, 10)
	quota := strconv.FormatInt(l.CPUMillis*cpuPeriodMicros/1000, 10)
	shares := max(2, l.CPUShareMillis*1024/1000)
	// The kernel's own mapping of v1 shares to v2 weights.
	weight := 1 + (shares-2)*9999/262142
	pids := strconv.FormatInt(l.PIDs, 10)
	return []limitWrite{
		{what: "memory limit", files: []string{at("memory", "memory.memsw.limit_in_bytes")}, value: memory, optional: true},
		{what: "memory limit", files: []string{unified("memory.max"), at("memory", "memory.limit_in_bytes")}, value: memory},
		{what: "swap limit", files: []string{unified("memory.swap.max")}, value: "0", optional: true},
		{what: "swap limit", files: []string{at("memory", "memory.memsw.limit_in_bytes")}, value: memory, optional: true},
		{what: "CPU limit", files: []string{unified("cpu.max")}, value: quota + " " + strconv.Itoa(cpuPeriodMicros)},
		{what: "CPU limit", files: []string{at("cpu", "cpu.cfs_quota_us")}, value: quota},
		{what: "CPU share", files: []string{unified("cpu.weight")}, value: strconv.FormatInt(weight, 10)},
		{what: "CPU share", files: []string{at("cpu", "cpu.shares")}, value: strconv.FormatInt(shares, 10)},
		{what: "process limit", files: []string{unified("pids.max"), at("pids", "pids.max")}, value: pids},
	}
}

// cgroupPaths reads /proc/PID/cgroup into the folder of each controller; the v2
// hierarchy has the empty name. Lines without the given text are left out: the v1
// controllers of a process that ends say the root from some moment on, maybe while they
// are read, and nothing may be set or counted there.
//
// https://man7.org/linux/man-pages/man7/cgroups.7.html
func cgroupPaths(membership, text string) map[string]string {
	paths := map[string]string{}
	hybrid := false
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		hybrid = hybrid || parts[1] != ""
		if !strings.Contains(line, text) {
			continue
		}
		if parts[1] == "" {
			paths[""] = filepath.Join(cgroupRoot, parts[2])
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			paths[name] = filepath.Join(cgroupRoot, name, parts[2])
		}
	}
	if _, ok := paths[""]; ok && hybrid {
		// Beside v1 controllers, v2 is mounted below and has none of its own.
		delete(paths, "")
	}
	return paths
}
