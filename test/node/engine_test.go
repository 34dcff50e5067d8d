package node_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/docker"
	"github.com/dayfly-run/dayfly/wire"
)

// dockerd is a Docker Engine of one test's own. It has a network namespace of its
// own, because a second engine beside another takes its bridge away.
type dockerd struct {
	t      *testing.T
	dir    string
	starts chan func()
	cmd    *exec.Cmd
	ended  chan struct{}
}

// newDockerd starts an engine and makes it the one that clients of this test use.
func newDockerd(t *testing.T) *dockerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "eng-") // a socket's path must be short
	must(t, err)
	d := &dockerd{t: t, dir: dir, starts: make(chan func())}
	// The kernel ends the engine with the thread that started it.
	go func() {
		runtime.LockOSThread()
		for start := range d.starts {
			start()
		}
	}()
	t.Cleanup(func() {
		d.end()
		close(d.starts)
		d.clear()
	})
	t.Setenv("DOCKER_HOST", "unix://"+d.socket())
	d.start()
	return d
}

func (d *dockerd) socket() string { return filepath.Join(d.dir, "sock") }

func (d *dockerd) start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(d.t, err)
	defer log.Close()
	d.cmd = exec.Command("dockerd", "--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
		"--pidfile", filepath.Join(d.dir, "pid"), "--host", "unix://"+d.socket(), "--cgroup-parent", "/"+filepath.Base(d.dir),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started := make(chan error)
	d.starts <- func() { started <- d.cmd.Start() }
	must(d.t, <-started)
	cmd, ended := d.cmd, make(chan struct{})
	d.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	poll(d.t, func() []string {
		select {
		case <-ended:
			said, _ := os.ReadFile(log.Name())
			d.t.Fatalf("dockerd ended with %s\n%s", cmd.ProcessState, said[max(0, len(said)-2000):])
		default:
		}
		if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
			return []string{string(out)}
		}
		return nil
	})
}

// end stops the engine and waits for it.
func (d *dockerd) end() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Error(err)
	}
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Error("dockerd does not end")
	}
}

// clear removes what an engine leaves on the machine that is stopped in the middle of
// its work: processes that name its folder or are in its cgroups, those, and mounts.
func (d *dockerd) clear() {
	d.t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(d.t, err)
	for _, path := range commands {
		command, _ := os.ReadFile(path) // gone: empty
		if !strings.Contains(string(command), d.dir+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // or it has ended
		}
	}
	d.clearGroups()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(d.t, err)
	for line := range strings.Lines(string(mounts)) {
		if path := strings.Fields(line)[4]; strings.HasPrefix(path, d.dir+"/") {
			_ = syscall.Unmount(path, syscall.MNT_DETACH) // it may have gone with another
		}
	}
	must(d.t, os.RemoveAll(d.dir))
}

// clearGroups kills what runs in the engine's cgroups and removes them.
func (d *dockerd) clearGroups() {
	d.t.Helper()
	poll(d.t, func() (left []string) {
		for _, root := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			for _, below := range []string{"/*", ""} {
				groups, err := filepath.Glob(root + filepath.Base(d.dir) + below)
				must(d.t, err)
				for _, group := range groups {
					if info, err := os.Stat(group); err != nil || !info.IsDir() {
						continue
					}
					pids, _ := os.ReadFile(filepath.Join(group, "cgroup.procs")) // gone: empty
					for text := range strings.FieldsSeq(string(pids)) {
						if pid, err := strconv.Atoi(text); err == nil {
							_ = syscall.Kill(pid, syscall.SIGKILL) // or it has ended
						}
					}
					if err := os.Remove(group); err != nil {
						left = append(left, err.Error())
					}
				}
			}
		}
		return left
	})
}

// TestEngineRestarts: the engine stops and comes back while calls run, twice. Each call
// is answered, with its result or with an error that is not the function's; afterwards
// the node works as before, and nothing of what was cut off runs on.
func TestEngineRestarts(t *testing.T) {
	d := newDockerd(t)
	n := startNode(t, room(4), func(_, owner string) (sandbox.Sandbox, error) { return docker.New(owner, quiet()) })
	for range 2 {
		load := n.load(t)
		load.await(8)
		d.end()
		load.await(2) // while there is no engine
		d.start()
		load.await(20)
		counts := load.end()
		t.Logf("answers %v", counts)
		if counts["ok"] == 0 {
			t.Error("no call succeeded")
		}
	}
	v := deploy(t, functions.RuntimePython, functions.NetworkNone, "app.py", pythonCode, patience)
	poll(t, func() []string {
		result, failure := n.call(v, `"echo"`)
		if failure != nil {
			return []string{failure.Error()}
		}
		if result != `"echo"` {
			return []string{result}
		}
		return nil
	})
	n.stop()
	left := n.take()
	if left["processes"] > 1 { // the engine is one
		t.Errorf("after the node's stop there are %v", left)
	}
	// Docker 20.10 refuses now and then to remove one that it was making when it was
	// stopped. Nothing runs in it.
	t.Logf("dead containers that the engine kept: %d", left["containers of the engine"])
	running, err := exec.Command("docker", "ps", "--quiet", "--filter", "label=run.dayfly.owner="+owner(n.id)).Output()
	if err != nil || len(running) > 0 {
		t.Errorf("still running are %s; %v", running, err)
	}
}

// load is calls that go on and on.
type load struct {
	t       *testing.T
	quit    chan struct{}
	callers sync.WaitGroup
	answers chan string // what became of each call
	counts  map[string]int
}

// load calls functions new and old, from several sides.
func (n *node) load(t *testing.T) *load {
	t.Helper()
	l := &load{t: t, quit: make(chan struct{}), answers: make(chan string, 1000), counts: map[string]int{}}
	for i := range 4 {
		l.callers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-l.quit:
					return
				case <-time.After(20 * time.Millisecond): // the pace of one caller
				}
				v := deploy(t, functions.RuntimePython, functions.NetworkNone, "app.py", pythonCode, patience)
				event := `"echo"`
				if (i+k)%2 == 0 {
					event = `{"sleep": 0.3}`
				}
				result, failure := n.call(v, event)
				switch {
				case failure == nil && result == event:
					l.answers <- "ok"
				case failure == nil:
					l.answers <- "wrong: " + result
				case failure.Code == wire.CodeUnavailable, failure.Code == wire.CodeNoCapacity:
					l.answers <- string(failure.Code)
				default: // the function did nothing wrong, and another node may be asked
					l.answers <- "wrong: " + failure.Error()
				}
			}
		})
	}
	return l
}

// await waits for so many more answers.
func (l *load) await(n int) {
	l.t.Helper()
	over := time.After(patience)
	for range n {
		select {
		case answer := <-l.answers:
			l.count(answer)
		case <-over:
			l.t.Fatalf("calls are not answered: %v", l.counts)
		}
	}
}

func (l *load) count(answer string) {
	l.counts[answer]++
	if strings.HasPrefix(answer, "wrong") {
		l.t.Error(answer)
	}
}

// end stops calling and returns what became of the calls.
func (l *load) end() map[string]int {
	close(l.quit)
	go func() {
		l.callers.Wait()
		close(l.answers)
	}()
	for answer := range l.answers {
		l.count(answer)
	}
	return l.counts
}

// room lets a node have so many instances at once.
func room(instances int) wire.Resources {
	return wire.Resources{MemoryBytes: 1 << 30, CPUMillis: 4000, Instances: instances}
}
