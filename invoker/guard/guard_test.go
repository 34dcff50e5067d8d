package guard_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// invokerEnv makes the test binary an invoker that is killed or stopped: it has the URL
// of a NATS server.
const invokerEnv = "DAYFLY_TEST_GUARD_INVOKER"

// subject and lastWord are what the invoker has its guard say.
const subject, lastWord = "test.node", "the last word"

// shortly is how far off the deadlines of the tests are.
const shortly = 10 * time.Millisecond

func TestMain(m *testing.M) {
	if guard.Wanted(os.Args) {
		os.Exit(guard.Run(os.Args)) //nolint:forbidigo // it is this program's main
	}
	if nats, ok := os.LookupEnv(invokerEnv); ok {
		os.Exit(invoke(nats)) //nolint:forbidigo // it is this program's main
	}
	goleak.VerifyTestMain(m)
}

// container is a process that is one.
type container struct {
	sandbox.Container

	process *hostproc.Process
	cmd     *exec.Cmd
}

func (c *container) Pidfd() (*os.File, error) { return c.process.Pidfd() }

// contain starts a process that runs until it is killed.
func contain() (*container, error) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p, err := hostproc.Open(cmd.Process.Pid, ":/")
	return &container{process: p, cmd: cmd}, err
}

// containers starts some, which end with the test.
func containers(t *testing.T, n int) []*container {
	t.Helper()
	all := make([]*container, n)
	for i := range all {
		c, err := contain()
		must(t, err)
		all[i] = c
		t.Cleanup(func() {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait() // it was killed
			must(t, c.process.Close())
		})
	}
	return all
}

// awaitEnd waits until a container was killed.
func (c *container) awaitEnd(t *testing.T) {
	t.Helper()
	embedtest.Eventually(t, "the container's end", func() bool { return !c.lives() })
}

func (c *container) lives() bool {
	f, err := c.process.Pidfd()
	if err == nil {
		_ = f.Close()
	}
	return !errors.Is(err, sandbox.ErrEnded)
}

func newGuard(nats string) (*guard.Guard, error) {
	return guard.New(guard.Config{
		Args: []string{guard.Command, "error", "text"}, NATS: nats,
	}, embedtest.Discard())
}

func startGuard(t *testing.T) *guard.Guard {
	t.Helper()
	return startGuardOf(t, "")
}

func startGuardOf(t *testing.T, nats string) *guard.Guard {
	t.Helper()
	g, err := newGuard(nats)
	must(t, err)
	t.Cleanup(g.Close)
	return g
}

func watch(t *testing.T, g *guard.Guard, c sandbox.Container) *guard.Hold {
	t.Helper()
	h, err := g.Watch(c)
	must(t, err)
	t.Cleanup(h.Release)
	return h
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	g := startGuard(t)
	all := containers(t, 4)
	never, disarmed, later, late := watch(t, g, all[0]), watch(t, g, all[1]), watch(t, g, all[2]), watch(t, g, all[3])
	soon := time.Now().Add(time.Second) // what follows takes no longer, on any machine
	disarmed.Arm(soon)
	if disarmed.Overdue(soon.Add(-1)) || !disarmed.Overdue(soon) {
		t.Error("it is not overdue from its deadline on")
	}
	disarmed.Disarm(soon)
	never.Disarm(soon) // of what was not armed
	if disarmed.Overdue(soon) || never.Overdue(soon) {
		t.Error("what is not armed is overdue")
	}
	later.Arm(time.Now().Add(time.Hour))
	later.Arm(soon)
	later.Disarm(soon)
	late.Arm(time.Now().Add(time.Hour))
	late.Arm(soon)
	all[3].awaitEnd(t)
	if took := time.Since(soon); took < guard.Slack {
		t.Errorf("it was killed %s after its deadline", took)
	}
	// Those that are left were looked at often enough once one is gone that was armed later.
	next := containers(t, 1)[0]
	watch(t, g, next).Arm(soon.Add(guard.Slack))
	next.awaitEnd(t)
	for i, c := range all[:3] {
		if !c.lives() {
			t.Errorf("container %d was killed as well", i)
		}
	}
}

func TestReleasedContainerIsLeftAlone(t *testing.T) {
	t.Parallel()
	g := startGuard(t)
	all := containers(t, 3)
	released := watch(t, g, all[0])
	deadline := time.Now().Add(shortly)
	released.Arm(deadline)
	released.Release()
	released.Arm(deadline) // too late
	next, other := watch(t, g, all[1]), watch(t, g, all[2])
	other.Arm(deadline)
	all[2].awaitEnd(t)
	if !all[0].lives() || !all[1].lives() {
		t.Fatal("one was killed that nobody armed")
	}
	next.Arm(deadline)
	all[1].awaitEnd(t)
	if !all[0].lives() {
		t.Error("the one that was released was killed")
	}
}

func TestWatchOfOthers(t *testing.T) {
	g := startGuard(t)
	h, err := g.Watch(struct{ sandbox.Container }{})
	if h != nil || err != nil {
		t.Errorf("one without a process: %v, %v", h, err)
	}
	h.Arm(time.Now()) // a nil one does nothing
	h.Disarm(time.Now())
	h.Release()
	var none *guard.Guard
	if h, err := none.Watch(containers(t, 1)[0]); h != nil || err != nil {
		t.Errorf("without a guard: %v, %v", h, err)
	}
	none.SetWord("", nil)
	none.Close()
	ended := containers(t, 1)[0]
	must(t, ended.process.Kill())
	ended.awaitEnd(t)
	if _, err := g.Watch(ended); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("one that has ended: %v", err)
	}
}

// A guard that dies is started again, and knows what the one before it knew.
func TestGuardIsRestarted(t *testing.T) {
	t.Parallel()
	g := startGuard(t)
	all := containers(t, 3)
	before, armed := watch(t, g, all[0]), watch(t, g, all[1])
	embedtest.Eventually(t, "a guard", func() bool { return g.PID() != 0 })
	first := g.PID()
	must(t, unix.Kill(first, unix.SIGKILL))
	armed.Arm(time.Now().Add(shortly))
	meanwhile := watch(t, g, all[2])
	all[1].awaitEnd(t)
	if second := g.PID(); second == first {
		t.Fatal("it is the same guard")
	}
	before.Arm(time.Now().Add(shortly))
	meanwhile.Arm(time.Now().Add(shortly))
	all[0].awaitEnd(t)
	all[2].awaitEnd(t)
}

// A guard that is stopped and does not read is replaced, which harms nothing.
func TestGuardThatHangs(t *testing.T) {
	t.Parallel()
	url, conn, heard := listen(t)
	g := startGuardOf(t, url)
	all := containers(t, 2)
	held := watch(t, g, all[0])
	embedtest.Eventually(t, "a guard", func() bool { return g.PID() != 0 })
	first := g.PID()
	must(t, unix.Kill(first, unix.SIGSTOP))
	embedtest.Eventually(t, "another guard", func() bool {
		h, err := g.Watch(all[1]) // until the pipe is full
		must(t, err)
		h.Release()
		g.SetWord(subject, make([]byte, 16<<10))
		pid := g.PID()
		return pid != 0 && pid != first
	})
	if !all[0].lives() || !all[1].lives() {
		t.Error("containers were killed when the guard was replaced")
	}
	must(t, conn.Publish(subject, []byte("nothing before")))
	if word := embedtest.Receive(t, heard); word != "nothing before" {
		t.Errorf("when the guard was replaced, %q was said", word)
	}
	held.Arm(time.Now().Add(shortly))
	all[0].awaitEnd(t)
}

func TestCloseKillsWhatIsLeft(t *testing.T) {
	g, err := newGuard("")
	must(t, err)
	left := containers(t, 1)[0]
	_, err = g.Watch(left)
	must(t, err)
	embedtest.Eventually(t, "a guard", func() bool { return g.PID() != 0 })
	pid := g.PID()
	g.Close()
	left.awaitEnd(t)
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the guard is there: %v", err)
	}
}

// invoke is an invoker with two containers, of which one has a deadline that is near once
// it is told to go on.
func invoke(nats string) int {
	g, err := newGuard(nats)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	g.SetWord(subject, []byte(lastWord))
	line := []string{"ready"}
	var first *guard.Hold
	for range 2 {
		c, err := contain()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		h, err := g.Watch(c)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if first == nil {
			first = h
		}
		line = append(line, strconv.Itoa(c.cmd.Process.Pid))
	}
	if err := settle(g); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, strings.Join(line, " "))
	in := bufio.NewReader(os.Stdin)
	for {
		order, err := in.ReadString('\n')
		switch {
		case err != nil:
			return 1
		case order == "arm\n":
			first.Arm(time.Now().Add(time.Second)) // it is stopped before
			fmt.Fprintln(os.Stdout, "armed")
		case order == "lose\n":
			_ = unix.Kill(g.PID(), unix.SIGKILL)
			if err := settle(g); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			fmt.Fprintln(os.Stdout, "another")
		case order == "end\n":
			g.Close()
			return 0
		}
	}
}

// settle waits until the guard knows what it was told: it kills one that came later.
func settle(g *guard.Guard) error {
	for g.PID() == 0 {
		<-time.After(time.Millisecond)
	}
	c, err := contain()
	if err != nil {
		return err
	}
	h, err := g.Watch(c)
	if err != nil {
		return err
	}
	h.Arm(time.Now().Add(-guard.Slack))
	if err := c.cmd.Wait(); !errors.As(err, new(*exec.ExitError)) {
		return fmt.Errorf("the guard did not kill: %w", err)
	}
	h.Release()
	return c.process.Close()
}

// invoker is the process of invoke.
type invoker struct {
	cmd        *exec.Cmd
	out        *bufio.Reader
	in         *os.File
	containers []*hostproc.Process
}

func startInvoker(t *testing.T, nats string) *invoker {
	t.Helper()
	return startInvokerAt(t, os.Args[0], nats)
}

// startInvokerAt starts one out of a file.
func startInvokerAt(t *testing.T, program, nats string) *invoker {
	t.Helper()
	i := &invoker{cmd: exec.Command(program)}
	i.cmd.Env = append(os.Environ(), invokerEnv+"="+nats)
	i.cmd.Stderr = os.Stderr
	stdin, in, err := os.Pipe()
	must(t, err)
	i.in, i.cmd.Stdin = in, stdin
	out, err := i.cmd.StdoutPipe()
	must(t, err)
	must(t, i.cmd.Start())
	must(t, stdin.Close())
	t.Cleanup(func() {
		_ = i.cmd.Process.Kill()
		_ = i.cmd.Wait() // it was killed
		_ = in.Close()
	})
	i.out = bufio.NewReader(out)
	for _, field := range strings.Fields(i.read(t))[1:] {
		pid, err := strconv.Atoi(field)
		must(t, err)
		p, err := hostproc.Open(pid, ":/")
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		i.containers = append(i.containers, p)
	}
	return i
}

func (i *invoker) read(t *testing.T) string {
	t.Helper()
	line, err := i.out.ReadString('\n')
	must(t, err)
	return line
}

func awaitEnd(t *testing.T, p *hostproc.Process) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	must(t, embedtest.Receive(t, ended))
}

// listen starts a NATS server and hears what is said on the subject.
func listen(t *testing.T) (url string, conn *bus.Conn, heard chan string) {
	t.Helper()
	server, err := natsserver.Start(natsserver.Config{Dir: filepath.Join(t.TempDir(), "nats"), Listen: "127.0.0.1:0"}, embedtest.Discard())
	must(t, err)
	t.Cleanup(server.Stop)
	conn = embedtest.Connect(t, server)
	heard = make(chan string, 1)
	sub, err := conn.Subscribe(subject, "", func(m bus.Msg) { heard <- string(m.Data) })
	must(t, err)
	t.Cleanup(func() { sub.Stop(conn) })
	return server.URL(), conn, heard
}

func TestInvokerIsKilled(t *testing.T) {
	t.Parallel()
	url, _, heard := listen(t)
	i := startInvoker(t, url)
	began := time.Now()
	must(t, i.cmd.Process.Kill())
	for _, c := range i.containers {
		awaitEnd(t, c)
	}
	killed := time.Since(began)
	if word := embedtest.Receive(t, heard); word != lastWord {
		t.Errorf("it said %q", word)
	}
	t.Logf("containers gone after %s, the cluster told after %s", killed, time.Since(began))
}

func TestInvokerIsStopped(t *testing.T) {
	t.Parallel()
	i := startInvoker(t, "")
	_, err := i.in.WriteString("arm\n")
	must(t, err)
	if said := i.read(t); said != "armed\n" {
		t.Fatal(said)
	}
	must(t, i.cmd.Process.Signal(unix.SIGSTOP))
	awaitEnd(t, i.containers[0])
	if err := i.containers[1].Kill(); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// Lists of processes show the guard under the program's name.
func TestName(t *testing.T) {
	t.Parallel()
	g := startGuard(t)
	want := filepath.Base(os.Args[0])
	want = want[:min(len(want), 15)] + "\n" // the kernel keeps no more
	embedtest.Eventually(t, "its name", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", g.PID()))
		return err == nil && string(name) == want
	})
}

// A guard that died is started again also when the program's file has gone, as in an
// upgrade.
func TestProgramIsReplaced(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "dayfly")
	data, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(program, data, 0o700))
	i := startInvokerAt(t, program, "")
	must(t, os.Remove(program))
	_, err = i.in.WriteString("lose\n")
	must(t, err)
	if said := i.read(t); said != "another\n" {
		t.Fatal(said)
	}
}

// An invoker that ends in order says its last word itself.
func TestInvokerEnds(t *testing.T) {
	t.Parallel()
	url, conn, heard := listen(t)
	i := startInvoker(t, url)
	_, err := i.in.WriteString("end\n")
	must(t, err)
	must(t, i.cmd.Wait()) // and then the guard has ended
	must(t, conn.Publish(subject, []byte("nothing before")))
	if word := embedtest.Receive(t, heard); word != "nothing before" {
		t.Errorf("it said %q", word)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
