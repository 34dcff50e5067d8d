package scheduler_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

// process is a scheduler that is a process of its own.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
	end func()
}

// startProcess starts a scheduler, which ends with the test.
func startProcess(t *testing.T, url string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self)}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), scheduler.ChildEnv+"="+url), os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.end = sync.OnceFunc(func() { _ = p.cmd.Wait() }) // how it ended is of no interest
	t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		_ = p.in.Close()
		p.end()
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && p.cmd.ProcessState == nil {
		p.t.Error(err)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.end()
}

// asking asks for placements again and again, each time all schedulers, and keeps what is
// answered, however late.
type asking struct {
	mu      sync.Mutex     // guards what follows
	answers []*bus.Answers // in the order of the questions
	epochs  []uint64       // of the first answers, in the order of the questions
}

// askEvery is the pause between two questions, and answerWait how long the first answer is
// waited for before the next question.
const askEvery, answerWait = 20 * time.Millisecond, 50 * time.Millisecond

func startAsking(t *testing.T, conn *bus.Conn) *asking {
	t.Helper()
	a := &asking{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			a.one(ctx, t, conn)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, answers := range a.answers {
			answers.Close()
		}
	})
	return a
}

func (a *asking) one(ctx context.Context, t *testing.T, conn *bus.Conn) {
	data, err := json.Marshal(usual())
	if err != nil {
		t.Error(err)
		return
	}
	answers, err := conn.Ask(wire.PlaceSubject, data)
	if err != nil {
		t.Error(err)
		return
	}
	epoch := epochOfNext(ctx, t, answers, answerWait)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers, a.epochs = append(a.answers, answers), append(a.epochs, epoch)
}

// epochOfNext returns the epoch of the next answer, 0 for none.
func epochOfNext(ctx context.Context, t *testing.T, answers *bus.Answers, wait time.Duration) uint64 {
	m, err := answers.Next(ctx, wait)
	if err != nil {
		return 0
	}
	var reply wire.PlaceReply
	if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Error != nil {
		t.Errorf("reply %+v, %v", reply, err)
	}
	return reply.Epoch
}

// newest is the epoch of the newest answer, 0 for none yet.
func (a *asking) newest() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Max(append([]uint64{0}, a.epochs...))
}

// right fails unless no question had two answers and epochs grew with the questions.
func (a *asking) right(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	var highest uint64
	for i, answers := range a.answers {
		epochs := []uint64{a.epochs[i]}
		for {
			epoch := epochOfNext(t.Context(), t, answers, time.Millisecond)
			if epoch == 0 {
				break
			}
			epochs = append(epochs, epoch)
		}
		epochs = slices.DeleteFunc(epochs, func(e uint64) bool { return e == 0 })
		if len(epochs) > 1 || len(epochs) == 1 && epochs[0] < highest {
			t.Errorf("question %d was answered by epochs %v, and epoch %d was before", i, epochs, highest)
		}
		highest = slices.Max(append(epochs, highest))
	}
}

// startRoomyNode starts a node that never is full.
func startRoomyNode(t *testing.T, conn *bus.Conn) {
	t.Helper()
	startNode(t, conn, "a").report(t, func(st *wire.NodeState) {
		st.Capacity = wire.Resources{MemoryBytes: 1 << 50, CPUMillis: 1 << 40, Instances: 1 << 30}
	})
}

// TestLeaderPausedAndKilled: the leading process is paused, and another one leads. The
// paused one goes on with all that waited for it, and answers none of it. Then who leads
// is killed.
func TestLeaderPausedAndKilled(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	conn := connect(t, server)
	startRoomyNode(t, conn)
	first := startProcess(t, server.URL())
	asked := startAsking(t, conn)
	embedtest.Eventually(t, "the first leads", func() bool { return asked.newest() > 0 })
	before := asked.newest()
	second := startProcess(t, server.URL())

	begun := time.Now()
	first.signal(syscall.SIGSTOP)
	embedtest.Eventually(t, "the second leads", func() bool { return asked.newest() > before })
	t.Logf("paused: another one answers after %s", time.Since(begun))
	between := asked.newest()
	first.signal(syscall.SIGCONT)

	begun = time.Now()
	second.kill()
	// Before it leads again it is through with what waited for it.
	embedtest.Eventually(t, "the first leads again", func() bool { return asked.newest() > between })
	t.Logf("killed: another one answers after %s", time.Since(begun))
	asked.right(t)
}

// TestLeaderLosesItsServer: the NATS server is paused that the leader talks to, one that
// does not lead the bucket of leases. Somebody leads over the others.
func TestLeaderLosesItsServer(t *testing.T) {
	t.Parallel()
	cluster := embedtest.NATSProcesses(t)
	leaseBucket(t, cluster.Connect(t), 2*time.Second)
	leading := -1
	embedtest.Eventually(t, "the bucket has a leader", func() bool {
		leading = cluster.Leader("KV_" + wire.BucketLeases)
		return leading >= 0
	})
	paused := (leading + 1) % cluster.Servers()
	conn, err := bus.Connect(bus.Config{Name: t.Name(), URL: cluster.ServerURL(leading)}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	startRoomyNode(t, conn)
	startProcess(t, cluster.ServerURL(paused))
	asked := startAsking(t, conn)
	embedtest.Eventually(t, "it leads", func() bool { return asked.newest() > 0 })
	before := asked.newest()
	startProcess(t, cluster.ServerURL(leading))

	begun := time.Now()
	resume := cluster.PauseServer(paused)
	embedtest.Eventually(t, "somebody leads anew", func() bool { return asked.newest() > before })
	t.Logf("server paused: somebody else answers after %s", time.Since(begun))
	resume()
	cluster.AwaitSettled(t)
	asked.right(t)
}
