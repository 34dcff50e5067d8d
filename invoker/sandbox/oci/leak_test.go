package oci

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

// census counts what a container could leave behind.
func census(t *testing.T, s *Sandbox) map[string]int {
	t.Helper()
	count := map[string]int{}
	self := strconv.Itoa(os.Getpid())
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count["file descriptors"] = len(fds)
	lists, err := filepath.Glob("/proc/" + self + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lists {
		content, err := os.ReadFile(path)
		if err == nil { // the thread may end meanwhile
			count["children"] += len(strings.Fields(string(content)))
		}
	}
	err = s.launcher.do(t.Context(), func() error {
		content, err := os.ReadFile("/proc/thread-self/mountinfo")
		count["mounts of the launcher"] = strings.Count(string(content), s.hash)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	count["mounts"] = strings.Count(string(mounts), s.hash)
	namespaces := map[string]struct{}{}
	links, err := filepath.Glob("/proc/" + self + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range links {
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "net:") {
			namespaces[target] = struct{}{}
		}
	}
	count["network namespaces"] = len(namespaces)
	groups, err := s.cgroups.children(s.cgroup(""))
	if err != nil {
		t.Fatal(err)
	}
	count["cgroups"] = len(groups)
	for _, dir := range []string{s.state, s.bundles} {
		err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error {
			count["files"]++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return count
}

// TestLeavesNothing starts and ends containers in every way that there is.
func TestLeavesNothing(t *testing.T) {
	for name, cycles := range map[string]int{"crun": 200, "runc": 50} {
		t.Run(name, func(t *testing.T) {
			s := openReady(t, t.Name(), name)
			full := func() bool { return len(s.alone.ready) == cap(s.alone.ready) }
			cycle(t, s, 0)
			sandboxtest.Eventually(t, waitBound, "the pool is full", full)
			before := census(t, s)
			for i := range cycles {
				cycle(t, s, i)
			}
			// The first cycle may have found the pool full, the last did not.
			sandboxtest.Eventually(t, waitBound, "the pool is full", full)
			var after map[string]int
			defer func() { t.Logf("%d cycles: before %v, after %v", cycles, before, after) }()
			sandboxtest.Eventually(t, waitBound, "all is as before", func() bool {
				after = census(t, s)
				return maps.Equal(before, after)
			})
		})
	}
}

// cycle makes one container and ends it, or fails to make it.
func cycle(t *testing.T, s *Sandbox, i int) {
	t.Helper()
	spec := plainSpec("/bin/sleep", "1000")
	switch i % 5 {
	case 1: // it ends by itself
		spec = plainSpec("/bin/true")
	case 2:
		spec.WritableRoot = true
	case 3:
		spec.Command[0] = "/no/such/program"
		if c, err := s.Start(t.Context(), spec); err == nil {
			t.Fatal("started", spec.Command, c.Remove(context.Background()))
		}
		return
	case 4: // with children that lose their parent
		spec = plainSpec("/bin/sh", "-c", "(sleep 1000 & sleep 1000 &) & exec sleep 1000")
	}
	c, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if i%5 == 1 {
		sandboxtest.Await(t, c.Exited(), "its end")
		if exit := c.Exit(); exit != (sandbox.Exit{}) {
			t.Errorf("it ended with %+v", exit)
		}
	}
	if err := c.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
}
