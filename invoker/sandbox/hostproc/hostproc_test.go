package hostproc_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// child starts a process that runs until it is killed or the test ends, and takes
// hold of it. reap waits for it as its parent.
func child(t *testing.T) (p *hostproc.Process, reap func()) {
	t.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reap = sync.OnceFunc(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // it was killed, or not; both are fine
	})
	t.Cleanup(reap)
	if p, err = hostproc.Open(cmd.Process.Pid, ":/"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, reap
}

// ended checks that everything says so.
func ended(t *testing.T, p *hostproc.Process) {
	t.Helper()
	if err := p.Kill(); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("Kill says %v", err)
	}
	if l, err := p.Listen(9001); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("Listen says %v, %v", l, err)
	}
	if dir, err := p.OpenDir("/tmp"); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("OpenDir says %v, %v", dir, err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	p, reap := child(t)
	dir, err := p.OpenDir("/proc/self")
	if err != nil || dir.Close() != nil {
		t.Error(err)
	}
	if err := errors.Join(p.Kill(), p.Wait(), p.Wait()); err != nil {
		t.Fatal(err)
	}
	ended(t, p) // as a zombie
	reap()
	ended(t, p) // and when its ID is free
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// TestKillAll: nothing is killed for a container that is not there, nor for what could be in
// the cgroup of others.
func TestKillAll(t *testing.T) {
	t.Parallel()
	p, _ := child(t)
	none := strings.Repeat("0", 64)
	if err := errors.Join(hostproc.KillAll(), hostproc.KillAll(none, none)); err != nil {
		t.Error(err)
	}
	for _, text := range []string{none[1:], none + "0", strings.Repeat("/", 64), strings.ToUpper(none[1:] + "a")} {
		if err := hostproc.KillAll(none, text); err == nil || !strings.Contains(err.Error(), "no whole container ID") {
			t.Errorf("%q: %v", text, err)
		}
	}
	dir, err := p.OpenDir("/tmp")
	if err != nil {
		t.Fatalf("it does not live: %v", err)
	}
	if err := dir.Close(); err != nil {
		t.Error(err)
	}
}

// TestWholeID has what must never be looked for: KillAll would find the whole machine.
func TestWholeID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		strings.Repeat("0123456789abcdef", 4): true,
		"":                                    false, ":/": false, "docker": false,
		strings.Repeat("g", 64): false,
	} {
		if hostproc.WholeID(text) != want {
			t.Errorf("%q: not %t", text, want)
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	p, _ := child(t)
	waited := make(chan error, 1)
	go func() { waited <- p.Wait() }()
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := <-waited; err == nil {
		t.Error("Wait saw the end of a process that lives")
	}
	ended(t, p)
}

func TestOpen(t *testing.T) {
	t.Parallel()
	if _, err := hostproc.Open(os.Getpid(), "no such control group"); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("in another control group: %v", err)
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{cmd.Process.Pid, 0, -1, 1 << 30} {
		if p, err := hostproc.Open(pid, ""); err == nil {
			_ = p.Close()
			t.Errorf("process %d was opened", pid)
		}
	}
}

func TestNil(t *testing.T) {
	t.Parallel()
	var p *hostproc.Process
	ended(t, p)
	if err := errors.Join(p.Wait(), p.Close()); err != nil {
		t.Error(err)
	}
}

// TestRace uses a process from all sides while it is killed and closed.
func TestRace(t *testing.T) {
	t.Parallel()
	p, _ := child(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { _ = p.Wait() })
		group.Go(func() { _ = p.Kill() })
		group.Go(func() {
			if dir, err := p.OpenDir("/"); err == nil {
				_ = dir.Close()
			}
		})
		group.Go(func() { _ = p.Close() })
	}
	group.Wait()
}

func TestOOMKills(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "counts")
	for text, want := range map[string]int{
		"low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n": 1,
		"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n":               2,
		"oom_kill_disable 0\nunder_oom 0\n":                           0,
		"oom_kill x\n":                                                0, "": 0,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hostproc.OOMKills(file); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
	if got := hostproc.OOMKills(file + "-missing"); got != 0 {
		t.Errorf("without a file: %d", got)
	}
}
