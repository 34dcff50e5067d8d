package node_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// census counts what a node can leave behind.
type census map[string]int

// take counts now. What stands in the machine is counted by the node's own names,
// because others use the machine, too.
func (n *node) take() census {
	n.t.Helper()
	sum := sha256.Sum256([]byte(owner(n.id)))
	short := hex.EncodeToString(sum[:4]) // in the names of cgroups, links and firewall chains
	count := census{"goroutines": runtime.NumGoroutine()}
	count.descriptors(n.t)
	count.processes(string(n.id))
	count.mounts(n.t, n.dir)
	count["cgroups"] = folders("/sys/fs/cgroup", func(path string) bool {
		return strings.Contains(path, "/dayfly/"+short+"/")
	})
	count["containers of the engine"] = engineContainers(n.t, owner(n.id))
	count["files of instances"] = folders(n.dir, func(path string) bool {
		return !strings.HasPrefix(path, filepath.Join(n.dir, "sandbox", "roots")) && !strings.HasPrefix(path, filepath.Join(n.dir, "node", "code"))
	})
	links, err := net.Interfaces()
	must(n.t, err)
	for _, link := range links {
		if strings.Contains(link.Name, short) {
			count["links"]++
		}
	}
	rules, err := exec.Command("iptables-save").Output()
	must(n.t, err)
	count["firewall rules"] = bytes.Count(rules, []byte(short))
	return count
}

// descriptors counts the process's file descriptors by what they are.
func (c census) descriptors(t *testing.T) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range open {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the one that listed them
		}
		kind, _, named := strings.Cut(target, ":")
		if !named || strings.HasPrefix(target, "/") {
			kind = "file"
		}
		c["descriptors: "+kind]++
	}
}

// processes counts the processes that are children of this one or run on the node,
// and the namespaces that they are in.
func (c census) processes(node string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	spaces := map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		env, _ := os.ReadFile(filepath.Join(dir, "environ")) // gone, or a zombie: empty
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		_, after, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
		fields := strings.Fields(after)
		child := len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid())
		if !child && !bytes.Contains(env, []byte("DAYFLY_NODE="+node)) {
			continue
		}
		if child && fields[0] == "Z" {
			c["zombies"]++
		}
		c["processes"]++
		if pid == os.Getpid() {
			continue
		}
		for _, kind := range []string{"mnt", "net", "pid", "ipc", "uts"} {
			if name, err := os.Readlink(filepath.Join(dir, "ns", kind)); err == nil {
				spaces[name] = true
			}
		}
	}
	c["namespaces of instances"] = len(spaces)
}

// mounts counts what is mounted in each mount namespace that a thread of this
// process is in, of what has a folder in its line.
func (c census) mounts(t *testing.T, folder string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*")
	must(t, err)
	seen := map[string]bool{}
	for _, task := range tasks {
		space, err := os.Readlink(filepath.Join(task, "ns", "mnt"))
		if err != nil || seen[space] {
			continue // the thread ended, or its namespace is counted
		}
		content, err := os.ReadFile(filepath.Join(task, "mountinfo"))
		if err != nil {
			continue
		}
		seen[space] = true
		// Others mount and unmount on this machine.
		c["mounts"] += bytes.Count(content, []byte(folder))
	}
	c["mount namespaces of threads"] = len(seen)
}

// folders counts the files and folders below a path that are wanted.
func folders(root string, wanted func(path string) bool) (n int) {
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && wanted(path) {
			n++
		}
		return nil // what vanishes meanwhile is not counted
	})
	return n
}

// engineContainers counts the containers that the Docker Engine has of an owner.
func engineContainers(t *testing.T, owner string) int {
	t.Helper()
	out, err := exec.Command("docker", "ps", "--all", "--quiet", "--filter", "label=run.dayfly.owner="+owner).Output()
	must(t, err)
	return len(strings.Fields(string(out)))
}

// more lists what there is more of than in another census.
func (c census) more(before census) (grown []string) {
	for what, n := range c {
		if n > before[what] {
			grown = append(grown, fmt.Sprintf("%s: %d, before %d", what, n, before[what]))
		}
	}
	return grown
}
