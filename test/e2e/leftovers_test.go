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
	"strconv"
	"strings"
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
		if owner := n.Labels[labelOwner]; strings.Contains(owner, node) || strings.Contains(owner, dir+"/") {
			left = append(left, "network "+n.Name)
		}
	}
	if rules := bridgeRules(node); rules != "" {
		left = append(left, "firewall rules: "+rules)
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

// bridgeRules returns the firewall rules for the egress network of a node, by its
// whole name.
func bridgeRules(node string) string {
	sum := sha256.Sum256([]byte("invoker/" + node))
	out, err := exec.Command("iptables-save").Output()
	if err != nil {
		return "" // without iptables there is no rule
	}
	short := hex.EncodeToString(sum[:4]) // in the names of the bridge and of its chains
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, short) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found, "; ")
}

// processesWith lists the processes in whose environment a setting begins like that.
// Functions have the node's name and their instance's there.
func processesWith(setting string) (found []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+setting)) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // gone: empty
		found = append(found, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
	}
	return found
}

var cgroupOfContainer = regexp.MustCompile(`^(?:docker-)?([0-9a-f]{64})(?:\.scope)?$`)

// orphanCgroups lists cgroups of containers that are no more. Those of containers
// that others remove just now are among them for a moment.
func (s *suite) orphanCgroups() (left []string) {
	known, err := s.docker.ids()
	if err != nil {
		return []string{err.Error()}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it vanished
		}
		if !e.IsDir() {
			return nil
		}
		if m := cgroupOfContainer.FindStringSubmatch(e.Name()); m != nil && !known[m[1]] {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	return left
}
