package invoker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

const mib = 1 << 20

// node is an invoker over real NATS and S3, with a sandbox in which a Go function
// plays each process.
type node struct {
	tb       testing.TB
	inv      *Invoker
	id       wire.NodeID
	sandbox  *fake.Sandbox
	registry *registry.Registry
	cfg      Config
	stopped  bool
	lossy    bool // words of the node may get lost

	mu      sync.Mutex
	last    wire.NodeState // guarded by mu
	words   roster.Nodes   // guarded by mu
	settled []wire.LeaseID // guarded by mu: all that the node told of
	runs    []string       // guarded by mu: those that it was in
	changed chan struct{}  // guarded by mu: closed and replaced at every state
}

type option func(*Config, *Deps)

func instances(n int) option {
	return func(c *Config, _ *Deps) {
		c.Capacity = wire.Resources{MemoryBytes: int64(n) * 128 * mib, CPUMillis: int64(n) * 100, Instances: n}
	}
}

func idleLimit(d time.Duration) option { return func(c *Config, _ *Deps) { c.IdleLimit = d } }
func over(store *blob.Store) option    { return func(_ *Config, d *Deps) { d.Store = store } }

// startNode starts a node on whose instances play runs.
func startNode(tb testing.TB, play func(*process) int, options ...option) *node {
	tb.Helper()
	n := &node{tb: tb, changed: make(chan struct{})}
	n.id = wire.NodeID("node-" + uuid.NewString())
	n.sandbox = fake.New(string(n.id), fake.Knobs{})
	n.sandbox.Set(knobs(play))
	var err error
	n.registry, err = registry.Open(tb.Context(), shared.conn)
	must(tb, err)
	dir, err := os.MkdirTemp("", "n") // the fake dials sockets by their path, which must be short
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	n.cfg = Config{Node: n.id, DataDir: dir, IdleLimit: time.Hour, Build: "test", Stems: StemConfig{Starts: 16}}
	deps := Deps{
		Conn: shared.conn, Store: shared.store, Registry: n.registry, Sandbox: n.sandbox,
		Settings: shared.live,
		Roots:    &testRoots{},
		Metrics:  prometheus.NewRegistry(), Log: quiet(),
	}
	for _, o := range append([]option{instances(16)}, options...) {
		o(&n.cfg, &deps)
	}
	sub, err := shared.conn.Subscribe(wire.NodeStateSubject(n.id), "", n.heard)
	must(tb, err)
	n.inv = New(n.cfg, deps)
	must(tb, n.inv.Start(tb.Context()))
	tb.Cleanup(func() {
		n.stop(patience)
		sub.Stop(shared.conn)
	})
	return n
}

// stop stops the node and checks that it left nothing.
func (n *node) stop(bound time.Duration) {
	n.tb.Helper()
	if n.stopped {
		return
	}
	n.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	must(n.tb, n.inv.Stop(ctx))
	if live := n.sandbox.Live(); live != 0 {
		n.tb.Errorf("%d containers are left", live)
	}
	left, err := os.ReadDir(n.inv.stems.launch.runDir)
	must(n.tb, err)
	if len(left) != 0 {
		n.tb.Errorf("%d instance folders are left", len(left))
	}
}

func (n *node) heard(m bus.Msg) {
	id, w, err := roster.Word(m.Subject, m.Data)
	if err != nil {
		n.tb.Error(err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.words.Hear(id, w, time.Now())
	if lost := h.News != roster.Beat && h.News != roster.Changed; lost && n.lossy {
		return
	} else if lost {
		n.tb.Errorf("a word that does not follow on the one before: %s", m.Data)
		return
	}
	n.settled = append(slices.Clip(n.settled), h.State.Settled...)
	n.last = *h.State
	if len(n.runs) == 0 || n.runs[len(n.runs)-1] != n.last.Run {
		n.runs = append(n.runs, n.last.Run)
	}
	n.last.Settled = n.settled
	close(n.changed)
	n.changed = make(chan struct{})
}

// await waits until the node says of itself what is wanted.
func (n *node) await(what string, is func(wire.NodeState) bool) wire.NodeState {
	n.tb.Helper()
	over := time.After(patience)
	for {
		n.mu.Lock()
		s, changed := n.last, n.changed
		n.mu.Unlock()
		if s.Node != "" && is(s) {
			return s
		}
		select {
		case <-changed:
		case <-over:
			n.tb.Fatalf("the node never was %s; it is %+v", what, s)
		}
	}
}

// awaitCount waits until the node has so many instances of a version.
func (n *node) awaitCount(v wire.VersionID, want wire.VersionOnNode) {
	n.tb.Helper()
	want.Version = v
	n.await(fmt.Sprintf("%+v", want), func(s wire.NodeState) bool {
		got := wire.VersionOnNode{Version: v}
		for _, have := range s.Versions {
			if have.Version == v {
				got = have
			}
		}
		return got == want
	})
}

// deploy registers a function of its own name with the code of all tests.
func (n *node) deploy(change ...func(*functions.Spec)) wire.VersionID {
	n.tb.Helper()
	return n.deployCode("#!", change...)
}

// deployCode is deploy with code of its own.
func (n *node) deployCode(text string, change ...func(*functions.Spec)) wire.VersionID {
	n.tb.Helper()
	d, packed := artifact(n.tb, map[string]string{"bootstrap": text})
	spec := functions.Spec{
		Runtime: functions.RuntimePython, Handler: "app.handler", MemoryBytes: 128 * mib, CPUMillis: 100,
		TimeoutMillis: patience.Milliseconds(), Concurrency: 1, MaxInstances: 50, Network: functions.NetworkNone,
	}
	for _, c := range change {
		c(&spec)
	}
	id := wire.FunctionID{Namespace: "default", Name: "f" + strings.ReplaceAll(uuid.NewString(), "-", "")}
	deployed, err := n.registry.Deploy(n.tb.Context(), id, spec, functions.Artifact{Code: d, CodeBytes: int64(len(packed))}, time.Now())
	must(n.tb, err)
	return deployed.Version.VersionID
}

func timeout(d time.Duration) func(*functions.Spec) {
	return func(s *functions.Spec) { s.TimeoutMillis = d.Milliseconds() }
}

func storing(s *functions.Spec) { s.Output.Store = true }

// answer is what a node replied.
type answer struct {
	wire.InvokeReply
	body []byte
}

func newInvocation() wire.InvocationID {
	return wire.InvocationID(uuid.Must(uuid.NewV7()).String())
}

func newLease() wire.LeaseID { return wire.LeaseID(uuid.NewString()) }

// send asks the node over NATS.
func (n *node) send(req wire.InvokeRequest, event []byte) (answer, error) {
	if req.Invocation == "" {
		req.Invocation = newInvocation()
	}
	frame, err := wire.AppendFrame(nil, req, event)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	data, err := shared.conn.Request(ctx, wire.NodeInvokeSubject(n.id), frame)
	if err != nil {
		return answer{}, err
	}
	var a answer
	a.body, err = wire.ParseFrame(data, &a.InvokeReply)
	return a, err
}

// cold calls with a lease, warm without.
func (n *node) cold(v wire.VersionID, event string) answer {
	n.tb.Helper()
	a, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease()}, []byte(event))
	must(n.tb, err)
	return a
}

func (n *node) warm(v wire.VersionID, event string) answer {
	n.tb.Helper()
	a, err := n.send(wire.InvokeRequest{Version: v}, []byte(event))
	must(n.tb, err)
	return a
}

// background calls with a lease and gives the answer later.
func (n *node) background(v wire.VersionID, event string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease()}, []byte(event))
		if err != nil {
			a.Error = wire.AsError(err)
		}
		done <- a
	}()
	return done
}

func (n *node) wantBody(a answer, want string) {
	n.tb.Helper()
	if a.Error != nil || string(a.body) != want {
		n.tb.Fatalf("answer %.100q, error %v; want %.100q", a.body, a.Error, want)
	}
}

func (n *node) wantError(a answer, code wire.Code, retryable bool, words string) {
	n.tb.Helper()
	if a.Error == nil || a.Error.Code != code || a.Error.Retryable != retryable || !strings.Contains(a.Error.Message, words) {
		n.tb.Fatalf("answer %.100q, error %+v; want %s, retryable %t, with %q", a.body, a.Error, code, retryable, words)
	}
	if len(a.body) != 0 {
		n.tb.Errorf("an error with the body %.100q", a.body)
	}
}

// process is what plays an instance: a client of the Runtime API with a log.
type process struct {
	fake.Process
	ctx    context.Context
	client *http.Client
	log    *os.File
	script string // of a runtime without a shim: what the shell was told
	told   []byte // of a runtime with one: its assignment
}

// knobs lets processes that are started from now on play something.
func knobs(play func(*process) int) func(*fake.Knobs) {
	return func(k *fake.Knobs) { k.Run = run(play) }
}

// run makes a process of play.
func run(play func(*process) int) func(context.Context, fake.Process) int {
	return func(ctx context.Context, p fake.Process) int {
		path, err := p.Path(runRoot + "/" + logName)
		if err != nil {
			return 90
		}
		log, err := os.OpenFile(path, os.O_WRONLY, 0) // waits for the reader, as the shell does
		if err != nil {
			return 91
		}
		defer log.Close()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.Dial(ctx, "unix", p.Env("DAYFLY_RUNTIME_SOCKET"))
		}}
		defer transport.CloseIdleConnections()
		played := &process{Process: p, ctx: ctx, client: &http.Client{Transport: transport}, log: log}
		if command := strings.Join(p.Spec.Command, " "); strings.HasSuffix(command, runRoot+"/"+scriptName) {
			if played.script, err = readScript(ctx, p); err != nil || played.script == "" {
				return 92 // the stem was not needed
			}
		} else if _, played.told, err = played.do(http.MethodGet, "/dayfly/v1/assignment", nil); err != nil {
			return 92
		}
		return play(played)
	}
}

// readScript waits for what the invoker writes to the shell, as the shell does, and no
// longer than the container lives: it is not a process that could be killed.
func readScript(ctx context.Context, p fake.Process) (string, error) {
	path, err := p.Path(runRoot + "/" + scriptName)
	if err != nil {
		return "", err
	}
	pipe, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer pipe.Close()
	defer context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		script, err := io.ReadAll(pipe) // ends at once while there is no writer
		if err != nil || len(script) > 0 {
			return string(script), err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (p *process) do(method, path string, body []byte) (id string, data []byte, err error) {
	request, err := http.NewRequestWithContext(p.ctx, method, "http://runtime"+path, bytes.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return "", nil, err
	}
	defer response.Body.Close()
	data, err = io.ReadAll(response.Body)
	return response.Header.Get("Lambda-Runtime-Aws-Request-Id"), data, err
}

// next gives the next event; an error means that the container is being removed.
func (p *process) next() (id string, event []byte, err error) {
	return p.do(http.MethodGet, "/2018-06-01/runtime/invocation/next", nil)
}

func (p *process) respond(id string, result []byte) {
	_, _, _ = p.do(http.MethodPost, "/2018-06-01/runtime/invocation/"+id+"/response", result)
}

func (p *process) fail(path, message string) {
	_, _, _ = p.do(http.MethodPost, "/2018-06-01/runtime/"+path, fmt.Appendf(nil, `{"errorMessage":%q,"errorType":"Test"}`, message))
}

func (p *process) print(text string) { _, _ = io.WriteString(p.log, text) }

// errExit makes a function's process end with that status.
type errExit int

func (e errExit) Error() string { return fmt.Sprintf("exit with status %d", int(e)) }

// each plays a function that gives every event to handle.
func each(handle func(p *process, id string, event []byte) ([]byte, error)) func(*process) int {
	return func(p *process) int {
		for {
			id, event, err := p.next()
			if err != nil {
				return 1
			}
			result, err := handle(p, id, event)
			if code, ok := errors.AsType[errExit](err); ok {
				return int(code)
			}
			if err != nil {
				p.fail("invocation/"+id+"/error", err.Error())
				continue
			}
			p.respond(id, result)
		}
	}
}

// several plays a function that takes so many events at once and gives each to handle.
// The first exit is that of the process.
func several(atOnce int, handle func(p *process, id string, event []byte) ([]byte, error)) func(*process) int {
	return func(p *process) int {
		codes := make(chan int, atOnce)
		for range atOnce {
			go func() { codes <- each(handle)(p) }()
		}
		return <-codes
	}
}

// echo answers with the event.
func echo(_ *process, _ string, event []byte) ([]byte, error) { return event, nil }
