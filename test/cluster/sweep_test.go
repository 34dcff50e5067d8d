package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSweep: what a process that has ended left goes, and that of another one stays.
func TestSweep(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	temporary, cgroups := t.TempDir(), t.TempDir()
	left := func(pid int) []string {
		owner := ownerHash(nodeOf(markOf(pid), invokerName(invokers-1)))
		paths := []string{
			filepath.Join(temporary, folderOf(pid)+"123"), filepath.Join(cgroups, "dayfly", owner), filepath.Join(cgroups, "memory", "dayfly", owner),
		}
		for _, path := range paths {
			if err := os.MkdirAll(filepath.Join(path, "below", "it"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		return paths
	}
	goes, stays := left(ended.Process.Pid), left(os.Getpid())
	if err := sweep(temporary, cgroups); err != nil {
		t.Error(err)
	}
	for _, path := range goes {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there still: %v", path, err)
		}
	}
	for _, path := range stays {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
