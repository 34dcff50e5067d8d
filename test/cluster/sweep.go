package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	folderName = "dayfly-lan-"
	cgroupRoot = "/sys/fs/cgroup"
)

// markOf begins the names of the nodes of a process's cluster, and folderOf that of its
// folder.
func markOf(pid int) string   { return "lan" + strconv.Itoa(pid) }
func folderOf(pid int) string { return folderName + strconv.Itoa(pid) + "-" }

func invokerName(i int) string { return "i" + strconv.Itoa(i+1) }

func nodeOf(mark, invoker string) wire.NodeID { return wire.NodeID(mark + "-" + invoker) }

// sweep removes what clusters left in the folder of temporary files whose process has died:
// folders, in which nothing is mounted any more, and the control groups of their nodes.
// Where a function is still about to end, a later sweep does.
func sweep(temporary, cgroups string) error {
	folders, err := filepath.Glob(filepath.Join(temporary, folderName+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, folder := range folders {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), folderName), "-")
		pid, err := strconv.Atoi(text)
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) { // not ours, or of one that lives
			continue
		}
		var left error
		for i := range invokers {
			left = errors.Join(left, removeGroups(cgroups, ownerHash(nodeOf(markOf(pid), invokerName(i)))))
		}
		if left == nil {
			errs = append(errs, os.RemoveAll(folder))
		}
	}
	return errors.Join(errs...)
}

// removeGroups removes the control groups under a node's, in each hierarchy there is.
func removeGroups(cgroups, owner string) error {
	var tops []string
	for _, pattern := range []string{"dayfly", "*/dayfly"} { // version 2, version 1
		found, err := filepath.Glob(filepath.Join(cgroups, pattern, owner))
		if err != nil {
			return err
		}
		tops = append(tops, found...)
	}
	var errs []error
	for _, top := range tops {
		var groups []string
		errs = append(errs, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return err
		}))
		for _, group := range slices.Backward(groups) { // those below first
			errs = append(errs, os.Remove(group))
		}
	}
	return errors.Join(errs...)
}
