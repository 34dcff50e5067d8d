package oci

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupTop is the cgroup above all owners' cgroups. It is made when needed and
// left: removing it could hit another owner that is just making its own.
const cgroupTop = "dayfly"

// hierarchy is a mounted cgroup tree.
type hierarchy struct {
	path        string // mount point
	unified     bool   // cgroup v2
	controllers []string
}

// hierarchies are the trees that hold the controllers: one of v2, or several of v1.
type hierarchies []hierarchy

// cgroupRoot is where the trees are mounted; one elsewhere is somebody's own.
const cgroupRoot = "/sys/fs/cgroup"

// parseHierarchies reads /proc/self/mountinfo. hidden are the mount points of a
// v2 tree beside v1 ones, the "hybrid" layout: it holds no controllers.
func parseHierarchies(mountinfo []byte) (used hierarchies, hidden []string) {
	var v1, v2 hierarchies
	seen := map[string]bool{} // mounts may lie one on the other; the last one is seen
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		path := unescapeMount(fields[4])
		if seen[path] || path != cgroupRoot && !strings.HasPrefix(path, cgroupRoot+"/") {
			continue
		}
		switch kind[0] {
		case "cgroup":
			seen[path] = true
			v1 = append(v1, hierarchy{path: path, controllers: strings.Split(kind[2], ",")})
		case "cgroup2":
			seen[path] = true
			v2 = append(v2, hierarchy{path: path, unified: true})
		}
	}
	if len(v1) == 0 {
		return v2, nil
	}
	for _, h := range v2 {
		hidden = append(hidden, h.path)
	}
	return v1, hidden
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// limitsSwap reports whether swap can be limited.
func (hs hierarchies) limitsSwap() bool {
	for _, h := range hs {
		file := "/proc/swaps" // v2 has the files iff the kernel knows swap
		if !h.unified {
			file = filepath.Join(h.path, "memory.memsw.limit_in_bytes")
			if !slices.Contains(h.controllers, "memory") {
				continue
			}
		}
		_, err := os.Stat(file)
		return err == nil
	}
	return false
}

// oomFile is the file that counts the kills at the memory limit of a cgroup, or
// "" where nothing limits memory.
func (hs hierarchies) oomFile(cgroup string) string {
	for _, h := range hs {
		switch {
		case h.unified:
			return filepath.Join(h.path, cgroup, "memory.events")
		case slices.Contains(h.controllers, "memory"):
			return filepath.Join(h.path, cgroup, "memory.oom_control")
		}
	}
	return ""
}

// children lists the cgroups directly below one, by name.
func (hs hierarchies) children(cgroup string) ([]string, error) {
	names := map[string]struct{}{}
	for _, h := range hs {
		entries, err := os.ReadDir(filepath.Join(h.path, cgroup))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names[e.Name()] = struct{}{}
			}
		}
	}
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	slices.Sort(list)
	return list, nil
}

// procs lists the live processes of a cgroup and of those below it.
func (hs hierarchies) procs(cgroup string) []int {
	var pids []int
	for _, h := range hs {
		// The error is about folders that go meanwhile, and their processes with them.
		_ = filepath.WalkDir(filepath.Join(h.path, cgroup), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				pids = append(pids, members(path)...)
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// members lists the processes in one cgroup folder.
func members(dir string) []int {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		// 0 stands for a process of a PID namespace outside of ours.
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// remove kills whatever is in a cgroup and removes the cgroup and those below it,
// in every tree. Its processes may need a moment to go: it tries until ctx is
// done. One that is not there is no error.
func (hs hierarchies) remove(ctx context.Context, cgroup string) error {
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		var errs []error
		for _, h := range hs {
			errs = append(errs, removeTree(filepath.Join(h.path, cgroup)))
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("oci: remove cgroup %s: %w: %w", cgroup, err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// removeEmpty removes a cgroup where nothing is in it.
func (hs hierarchies) removeEmpty(cgroup string) {
	for _, h := range hs {
		_ = unix.Rmdir(filepath.Join(h.path, cgroup)) // else somebody uses it, or never did
	}
}

// removeTree removes a cgroup folder, and kills what is in it if that is in the
// way. Its files are the kernel's and go with it.
func removeTree(dir string) error {
	if err := unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	for _, pid := range members(dir) {
		kill(pid, dir)
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("remove %s: %w", dir, err))
	}
	return errors.Join(errs...)
}

// kill ends a process if it is still in the cgroup once it is held: its ID may
// have passed on.
func kill(pid int, dir string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if slices.Contains(members(dir), pid) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
