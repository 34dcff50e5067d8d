package coldstarts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
)

// nodeVariable and instanceVariable are what Dayfly tells every container.
const (
	nodeVariable     = "DAYFLY_NODE="
	instanceVariable = "DAYFLY_INSTANCE="
)

// occupancy is the memory of a node's containers and of what stands around them. A
// page that several processes share counts for each in part.
type occupancy struct {
	// inside has the bytes of each container's processes, for instances and stems.
	inside map[string]contents
	// outside is Dayfly, and for docker the engine and what it has beside each container.
	outside int64
}

// contents is what a container's processes take.
type contents struct {
	bytes int64
	// bound says that it is an instance: code is mounted, which a stem has none of.
	bound bool
}

// occupied looks at all processes of the machine.
func (b *bench) occupied() (occupancy, error) {
	o := occupancy{inside: map[string]contents{}}
	beside := map[int]bool{}
	for _, pid := range b.cluster.PIDs() {
		beside[pid] = true
	}
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return o, err
	}
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			return o, err
		}
		name, parent := statusOf(folder)
		if b.crun == nil && (name == "dockerd" || name == "containerd") {
			beside[pid] = true
		}
		instance := instanceOf(folder, b.cluster.Node())
		if instance == "" {
			continue
		}
		if name, _ := statusOf("/proc/" + strconv.Itoa(parent)); strings.HasPrefix(name, "containerd-shim") {
			beside[parent] = true
		}
		mounts, _ := os.ReadFile(folder + "/mountinfo") // it may just have ended
		c := o.inside[instance]
		o.inside[instance] = contents{c.bytes + proportional(folder), c.bound || bytes.Contains(mounts, []byte(" /var/task "))}
	}
	for pid := range beside {
		o.outside += proportional("/proc/" + strconv.Itoa(pid))
	}
	return o, nil
}

// statusOf returns a process's name and parent; none when it has ended.
func statusOf(folder string) (name string, parent int) {
	data, err := os.ReadFile(folder + "/status")
	if err != nil {
		return "", 0
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value)
		case "PPid":
			parent, _ = strconv.Atoi(strings.TrimSpace(value)) // the kernel writes a number
		}
	}
	return name, parent
}

// instanceOf returns the instance of a node that a process belongs to, or nothing.
func instanceOf(folder, node string) string {
	environment, err := os.ReadFile(folder + "/environ")
	if err != nil {
		return ""
	}
	instance, ours := "", false
	for entry := range bytes.SplitSeq(environment, []byte{0}) {
		if id, ok := strings.CutPrefix(string(entry), instanceVariable); ok {
			instance = id
		}
		ours = ours || string(entry) == nodeVariable+node
	}
	if !ours {
		return ""
	}
	return instance
}

// proportional is a process's proportional set size in bytes; 0 when it has ended.
func proportional(folder string) int64 {
	data, err := os.ReadFile(folder + "/smaps_rollup")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "\nPss:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// weighAlone is what an idle interpreter takes without Dayfly, in bytes: the mean of
// as many as there will be instances.
func (b *bench) weighAlone(ctx context.Context, l language) (_ int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var started []*exec.Cmd
	defer func() {
		cancel()
		for _, cmd := range started {
			_ = cmd.Wait() // it was killed
		}
	}()
	var sum int64
	for range b.Counts.Idlers {
		cmd := baseline.Alone(ctx, b.roots[l.runtime], l.stay...)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		if err := cmd.Start(); err != nil {
			return 0, fmt.Errorf("%s alone: %w", l.label, err)
		}
		started = append(started, cmd)
		if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
			return 0, fmt.Errorf("%s alone: %w", l.label, err)
		}
	}
	if err := b.quiet(ctx, settle); err != nil {
		return 0, err
	}
	for _, cmd := range started {
		sum += proportional("/proc/" + strconv.Itoa(cmd.Process.Pid))
	}
	if sum == 0 {
		return 0, errors.New("the kernel tells no process's memory: no /proc/PID/smaps_rollup")
	}
	return sum / int64(len(started)), nil
}
