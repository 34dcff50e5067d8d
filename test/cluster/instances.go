package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/wire"
)

// Instance is a process of a function, as the machine shows it.
type Instance struct {
	PID  int
	Node wire.NodeID
	// Busy is for how long it has run its event; zero for one that waits.
	Busy time.Duration
}

func (i Instance) String() string {
	return fmt.Sprintf("process %d of node %s, busy for %s", i.PID, i.Node, i.Busy)
}

// processName begins the names of functions' processes; see the function.
const processName = "fn-"

// Instances lists the processes of functions on all nodes. It asks the kernel, so that
// it sees those of a node that is stopped or dead.
func (c *Cluster) Instances() ([]Instance, error) {
	owners := map[string]wire.NodeID{}
	for _, p := range c.Invokers {
		if p != nil {
			owners[ownerHash(c.Node(p))] = c.Node(p)
		}
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	var found []Instance
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err != nil { // it has just ended
			continue
		}
		text, ours := strings.CutPrefix(strings.TrimSpace(string(name)), processName)
		if !ours {
			continue
		}
		dir := filepath.Dir(path)
		in := Instance{}
		if in.PID, err = strconv.Atoi(filepath.Base(dir)); err != nil {
			return nil, err
		}
		groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue
		}
		for hash, node := range owners {
			if strings.Contains(string(groups), "/dayfly/"+hash+"/") {
				in.Node = node
			}
		}
		if in.Node == "" { // another cluster's
			continue
		}
		if since, err := strconv.ParseInt(text, 16, 64); err == nil {
			in.Busy = time.Duration(now.Nano()) - time.Duration(since)*time.Millisecond
		}
		found = append(found, in)
	}
	return found, nil
}

// ownerHash is what an invoker's cgroups are under.
func ownerHash(node wire.NodeID) string {
	sum := sha256.Sum256([]byte("invoker/" + string(node)))
	return hex.EncodeToString(sum[:4])
}
