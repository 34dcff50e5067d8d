package e2e_test

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
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// leftovers lists all that is there of this run.
func (s *suite) leftovers() []string {
	left := s.leftoversOf(s.mark, s.dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, addr := range s.addrs {
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = conn.Close()
			left = append(left, "a listener at "+addr)
		}
	}
	return append(left, s.orphanCgroups()...)
}

// leftoversOf lists the containers, networks, mounts, firewall rules and processes
// of the nodes whose name holds node, and of the processes with data in dir.
func (s *suite) leftoversOf(node, dir string) (left []string) {
	containers, err := s.docker.containers()
	if err != nil {
		return []string{err.Error()}
	}
	for _, c := range containers {
		if owner := c.Labels[labelOwner]; strings.Contains(owner, node) || strings.Contains(owner, dir+"/") {
			left = append(left, fmt.Sprintf("container %s of %s, %s", c.name(), owner, c.State))
		}
	}
	networks, err := s.docker.networks()
	if err != nil {
		return []string{err.Error()}
	}
	for _, n := range networks {
		owner := n.Labels[labelOwner]
		if (strings.Contains(owner, node) || strings.Contains(owner, dir+"/")) && !s.keeps(n.Name) {
			left = append(left, "network "+n.Name)
		}
	}
	for _, owner := range s.ownersOf(node, dir) {
		left = append(left, tracesOf(owner, dir)...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir+"/") {
			left = append(left, "mount "+line)
		}
	}
	return append(left, processesWith("DAYFLY_NODE="+node)...)
}

// excuse notes the networks that the engine keeps through no fault of the process that
// says so: it has miscounted what is in them, and stays with that until it is started again.
func (s *suite) excuse(processes ...*process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range processes {
		for _, r := range p.log.records() {
			if name, ok := r["network"].(string); ok && strings.HasPrefix(fmt.Sprint(r["msg"]), "the engine has miscounted") {
				s.kept = append(s.kept, name)
			}
		}
	}
}

func (s *suite) keeps(network string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.kept, network)
}

// ownersOf lists the owners of containers that belong to a node or have their data
// in dir.
func (s *suite) ownersOf(node, dir string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, owner := range s.owners {
		if strings.Contains(owner, node) || strings.Contains(owner, dir+"/") {
			found = append(found, owner)
		}
	}
	return found
}

// shortOf is what an owner's bridges, links, firewall chains, cgroups and folders
// have in their names.
func shortOf(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return hex.EncodeToString(sum[:4])
}

// tracesOf lists what there is on the machine of an owner, beyond what the Docker
// Engine knows: links, firewall rules, cgroups of the oci sandbox and its folders.
func tracesOf(owner, dir string) (found []string) {
	short := shortOf(owner)
	kept := world.keeps("dayfly-egress-" + short) // with its bridge and the engine's rules for that
	links, err := net.Interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	for _, link := range links {
		if strings.Contains(link.Name, short) && !kept {
			found = append(found, fmt.Sprintf("link %s of %s", link.Name, owner))
		}
	}
	rules, err := exec.Command("iptables-save").Output()
	if err != nil {
		return append(found, "iptables-save: "+err.Error())
	}
	for line := range strings.Lines(string(rules)) {
		if strings.Contains(line, short) && (!kept || strings.Contains(line, "DAYFLY-")) {
			found = append(found, fmt.Sprintf("firewall rule of %s: %s", owner, strings.TrimSpace(line)))
		}
	}
	for _, pattern := range append(ociCgroups(short), filepath.Join(dir, "*", "oci", short)) {
		left, err := filepath.Glob(pattern)
		if err != nil {
			return append(found, err.Error())
		}
		for _, path := range left {
			found = append(found, fmt.Sprintf("%s of %s", path, owner))
		}
	}
	return found
}

// ociCgroups are patterns of the cgroups that the oci sandbox makes, on cgroup v2
// and v1.
func ociCgroups(name string) []string {
	const root = "/sys/fs/cgroup"
	return []string{filepath.Join(root, "dayfly", name), filepath.Join(root, "*", "dayfly", name)}
}

// instances lists the instances, stems among them, that have a container.
func (p *platform) instances(t *testing.T) (names []string) {
	t.Helper()
	if p.sandbox == onDocker {
		for _, c := range world.docker.of(t, p.node) {
			names = append(names, c.Labels[labelInstance])
		}
		return names
	}
	for _, pattern := range ociCgroups(filepath.Join(shortOf("invoker/"+p.node), "*-*")) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// processesWith lists the processes in whose environment a setting begins like that.
// Functions have the node's name and their instance's there.
func processesWith(setting string) (found []string) {
	folders, err := foldersWith(setting)
	if err != nil {
		return []string{err.Error()}
	}
	for _, folder := range folders {
		command, _ := os.ReadFile(filepath.Join(folder, "cmdline")) // gone: empty
		found = append(found, fmt.Sprintf("process %s: %s", filepath.Base(folder), bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
	}
	return found
}

// foldersWith lists the folders in /proc of those processes.
func foldersWith(setting string) (found []string, err error) {
	folders, err := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		env, err := os.ReadFile(filepath.Join(folder, "environ"))
		if err == nil && bytes.Contains(append([]byte{0}, env...), []byte("\x00"+setting)) {
			found = append(found, folder)
		}
	}
	return found, err
}

// leaveFile makes an empty file in the container of an instance.
func leaveFile(t *testing.T, instance, path string) {
	t.Helper()
	folders, err := foldersWith("DAYFLY_INSTANCE=" + instance)
	if err != nil || len(folders) == 0 {
		t.Fatalf("the instance %s has no process: %v", instance, err)
	}
	if err := os.WriteFile(filepath.Join(folders[0], "root", path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

var cgroupOfContainer = regexp.MustCompile(`^(?:docker-)?([0-9a-f]{64})(?:\.scope)?$`)

// orphanCgroups lists the cgroups of this run's containers, which are no more.
func (s *suite) orphanCgroups() (left []string) {
	ours := s.docker.ids()
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it vanished
		}
		if m := cgroupOfContainer.FindStringSubmatch(e.Name()); m != nil && e.IsDir() && ours[m[1]] {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	return left
}
