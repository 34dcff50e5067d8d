package oci

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/dayfly-run/dayfly/invoker/sandbox"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

const (
	// crashEnv makes the test binary a process that makes containers and is then
	// killed: "RUNTIME OWNER DIR".
	crashEnv  = "DAYFLY_TEST_OCI_CRASH"
	waitBound = time.Minute
)

// crash makes containers, says so, and waits for its end.
func crash(role string) int {
	fields := strings.Fields(role)
	s, err := New(Config{Runtime: fields[0], Owner: fields[1], Dir: fields[2]}, quiet())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, change := range []func(*sandbox.Spec){
		func(*sandbox.Spec) {},
		func(spec *sandbox.Spec) { spec.WritableRoot = true },
		func(spec *sandbox.Spec) { spec.Network = sandbox.NetworkEgress },
	} {
		spec := plainSpec("/bin/sh", "-c", "sleep 1000 & exec sleep 1000")
		change(&spec)
		if _, err := s.Start(context.Background(), spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	fmt.Println("ready")
	select {}
}

func TestSweepAfterKill(t *testing.T) {
	t.Parallel()
	for _, name := range candidates() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, owner := sharedDir(t), "crash-"+name
			crashNow(t, name, owner, dir)
			s := openReady(t, owner, name)
			groups, err := s.cgroups.children(s.cgroup(""))
			if err != nil || len(groups) != 3 {
				t.Fatalf("left are the cgroups %q; %v", groups, err)
			}
			// Each container's shell starts its second one in its own time.
			embedtest.Eventually(t, "six processes are left", func() bool { return len(s.cgroups.procs(s.cgroup(""))) == 6 })
			mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
			if err != nil || strings.Contains(string(mounts), s.hash) {
				t.Errorf("a mount is left; %v", err)
			}
			if n, err := s.Sweep(t.Context()); n != 3 || err != nil {
				t.Errorf("Sweep removed %d; %v", n, err)
			}
			if pids := s.cgroups.procs(s.cgroup("")); len(pids) != 0 {
				t.Errorf("Sweep left the processes %v", pids)
			}
			if n, err := s.Sweep(t.Context()); n != 0 || err != nil {
				t.Errorf("the second Sweep removed %d; %v", n, err)
			}
			checkNoNetwork(t, s)
		})
	}
}

// crashNow runs the helper and kills it.
func crashNow(t *testing.T, runtime, owner, dir string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+strings.Join([]string{runtime, owner, dir}, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Errorf("the helper says %q; %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); !errors.As(err, new(*exec.ExitError)) {
		t.Error(err)
	}
}

// checkNoNetwork checks that the owner has no links and no rules.
func checkNoNetwork(t *testing.T, s *Sandbox) {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.Contains(l.Attrs().Name, s.hash) {
			t.Errorf("link %s is left", l.Attrs().Name)
		}
	}
	out, err := exec.Command("iptables-save").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, s.hash) {
			t.Errorf("rule %q is left", strings.TrimSpace(line))
		}
	}
}
