package docker

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// TestOOMKilled: an end for want of memory is known after the control group is gone, as
// it is when an engine is faster than who looks.
func TestOOMKilled(t *testing.T) {
	t.Parallel()
	root, limit, swap, removable := "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", true
	if _, err := os.Stat(root); err != nil {
		root, limit, swap, removable = "/sys/fs/cgroup", "memory.max", "memory.swap.max", false // what is gone says nothing on v2
	}
	for name, hungry := range map[string]bool{"out of memory": true, "killed": false} {
		for _, gone := range []bool{false, true} {
			if gone && !removable {
				continue
			}
			t.Run(fmt.Sprintf("%s/gone %t", name, gone), func(t *testing.T) {
				t.Parallel()
				group := "dayfly-test-" + uuid.NewString()
				dir := filepath.Join(root, group)
				must(t, os.Mkdir(dir, 0o700))
				t.Cleanup(func() { _ = os.Remove(dir) }) // the test may have
				must(t, os.WriteFile(filepath.Join(dir, limit), []byte("16777216"), 0o600))
				_ = os.WriteFile(filepath.Join(dir, swap), []byte("16777216"), 0o600) // not every kernel counts it
				cmd := exec.Command("sh", "-c", "read -r _; exec tail /dev/zero")
				stdin, err := cmd.StdinPipe()
				must(t, err)
				must(t, cmd.Start())
				must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o600))
				process, err := hostproc.Open(cmd.Process.Pid, group)
				must(t, err)
				defer func() { must(t, process.Close()) }()
				must(t, process.WatchOOM())
				if hungry {
					_, err = io.WriteString(stdin, "go\n")
				} else {
					err = process.Kill()
				}
				must(t, err)
				if err := cmd.Wait(); err == nil {
					t.Fatal("it ended by itself")
				}
				if gone {
					must(t, os.Remove(dir))
				}
				if got := process.OOMKilled(); got != hungry {
					t.Errorf("OOMKilled says %t", got)
				}
			})
		}
	}
}
