package events_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// startBound is how long the platform may take to answer.
const startBound = 30 * time.Second

const accessKey, secretKey = "dayfly", "not a secret here"

// platform is a Dayfly of processes.
type platform struct {
	t     *testing.T
	dir   string
	at    sites
	url   string
	http  *http.Client
	conn  *bus.Conn
	js    jetstream.JetStream
	store *blob.Store
	// by role: those that are killed
	processes map[string][]*process
}

// start starts a gateway, a scheduler, nodes and workers, with NATS and S3.
func start(t *testing.T, workers int) *platform {
	t.Helper()
	p := startEngines(t)
	listenGateway := freeAddress(t)
	p.url = "http://" + listenGateway
	p.role("scheduler", "127.0.0.1:0")
	p.role("gateway", listenGateway)
	for range workers {
		p.role("events", "127.0.0.1:0")
	}
	for i := range 2 {
		p.child(childNode, fmt.Sprintf("node-%d", i), "")
	}
	within(t, startBound, "the gateway is ready", func() error { return p.get("/readyz", nil) })
	return p
}

// newPlatform is one without processes.
func newPlatform(t *testing.T) *platform {
	t.Helper()
	dir, err := os.MkdirTemp(tempDir, "")
	must(t, err)
	p := &platform{
		t: t, dir: dir, processes: map[string][]*process{},
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	t.Cleanup(p.http.CloseIdleConnections)
	return p
}

// startEngines starts NATS and S3.
func startEngines(t *testing.T) *platform {
	t.Helper()
	p := newPlatform(t)
	listenNATS, listenS3 := freeAddress(t), freeAddress(t)
	p.at = sites{NATS: "nats://" + listenNATS, S3: "http://" + listenS3, AccessKey: accessKey, SecretKey: secretKey}
	keys, err := json.Marshal(map[string]string{"AccessKey": p.at.AccessKey, "SecretKey": p.at.SecretKey})
	must(t, err)
	must(t, os.Mkdir(filepath.Join(p.dir, childS3), 0o700))
	must(t, os.WriteFile(filepath.Join(p.dir, childS3, "credentials.json"), keys, 0o600))
	p.child(childS3, childS3, listenS3)
	p.child(childNATS, childNATS, listenNATS)
	p.connect()
	return p
}

// add supervises a process until the test's end.
func (p *platform) add(role, name string, command func() *exec.Cmd) {
	process := supervise(p.dir, name, command)
	p.processes[role] = append(p.processes[role], process)
	p.t.Cleanup(func() {
		process.end(syscall.SIGKILL)
		if err := process.sane(); err != nil {
			p.t.Error(err)
		}
		if p.t.Failed() {
			p.t.Logf("%s:\n%s", name, process.tail(4000))
		}
	})
}

// child starts this program again as one of the children.
func (p *platform) child(kind, name, listen string) {
	p.t.Helper()
	self, err := os.Executable()
	must(p.t, err)
	at, err := json.Marshal(p.at)
	must(p.t, err)
	env := append(os.Environ(), "TMPDIR="+tempDir, childKind+"="+kind, childDir+"="+filepath.Join(p.dir, name), childListen+"="+listen,
		childName+"="+name, childSites+"="+string(at), childRuns+"="+p.runsFile())
	p.add(kind, name, func() *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = env
		return cmd
	})
}

// role starts a role of the released program.
func (p *platform) role(role, listen string, flags ...string) {
	name := fmt.Sprintf("%s-%d", role, len(p.processes[role]))
	p.add(role, name, func() *exec.Cmd {
		cmd := exec.Command(binary, append([]string{role, "--listen", listen, "--nats", p.at.NATS}, flags...)...)
		cmd.Env = append(os.Environ(), "DAYFLY_S3_ENDPOINT="+p.at.S3, "DAYFLY_S3_ACCESS_KEY="+p.at.AccessKey, "DAYFLY_S3_SECRET_KEY="+p.at.SecretKey)
		return cmd
	})
}

func (p *platform) runsFile() string { return filepath.Join(p.dir, "runs") }

// connect opens the test's own ways to NATS and S3.
func (p *platform) connect() {
	p.t.Helper()
	within(p.t, startBound, "NATS answers", func() (err error) {
		p.conn, err = p.at.connect("test", embedtest.Discard())
		return err
	})
	p.t.Cleanup(p.conn.Close)
	nc, err := nats.Connect(p.at.NATS, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	must(p.t, err)
	p.t.Cleanup(nc.Close)
	p.js, err = jetstream.New(nc)
	must(p.t, err)
	p.store, err = p.at.store()
	must(p.t, err)
	within(p.t, startBound, "S3 answers", func() error { return p.store.EnsureBucket(p.t.Context()) })
}

// deploy registers a function, whose code nobody looks into.
func (p *platform) deploy(name string, change func(*functions.Spec)) wire.FunctionID {
	p.t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	must(p.t, tar.NewWriter(zipped).Close())
	must(p.t, zipped.Close())
	sum := sha256.Sum256(packed.Bytes())
	code := wire.Digest(hex.EncodeToString(sum[:]))
	must(p.t, p.store.PutBytes(p.t.Context(), wire.CodeKey(code), packed.Bytes(), "application/gzip"))
	known, err := registry.Open(p.t.Context(), p.conn)
	must(p.t, err)
	id := wire.FunctionID{Namespace: wire.DefaultNamespace, Name: name}
	_, err = known.Deploy(p.t.Context(), id, spec(change), functions.Artifact{Code: code, CodeBytes: int64(packed.Len())}, time.Now())
	must(p.t, err)
	within(p.t, startBound, name+" answers", func() error { return p.get("/v1/functions/"+name, nil) })
	return id
}

// get reads a document of the API.
func (p *platform) get(path string, into any) error {
	return p.do(http.MethodGet, path, nil, nil, into)
}

// problem is an answer that says no.
type problem struct{ wire.Problem }

func (e problem) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Detail) }

// do asks the gateway. An answer that says no is a [problem].
func (p *platform) do(method, path string, header http.Header, body []byte, into any) error {
	request, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if header != nil {
		request.Header = header
	}
	response, err := p.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		no := problem{wire.Problem{Status: response.StatusCode, Detail: string(answer)}}
		_ = json.Unmarshal(answer, &no.Problem) // it may be no document
		return no
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// accepted is the answer to an event.
type accepted struct {
	Invocation wire.InvocationID `json:"invocation"`
}

// send gives a function an event that runs later; key may be empty.
func (p *platform) send(name, key string, event []byte) (wire.InvocationID, error) {
	header := http.Header{"Prefer": {wire.RespondAsync}, "Content-Type": {"application/json"}}
	if key != "" {
		header.Set(wire.HeaderIdempotencyKey, key)
	}
	var a accepted
	err := p.do(http.MethodPost, "/v1/functions/"+name+"/invocations", header, event, &a)
	if err == nil && !a.Invocation.Valid() {
		err = fmt.Errorf("%q is no ID", a.Invocation)
	}
	return a.Invocation, err
}

// runs reads what functions noted.
func (p *platform) runs() (all []run) {
	p.t.Helper()
	text, err := os.ReadFile(p.runsFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var r run
		switch err := decoder.Decode(&r); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // one is being written
			return all
		case err != nil:
			p.t.Fatal(err)
		}
		all = append(all, r)
	}
}

// final waits until an event is over and returns its record.
func (p *platform) final(id wire.InvocationID, until time.Time) (r wire.Record, err error) {
	wait := ""
	for {
		r = wire.Record{}
		err = p.get("/v1/invocations/"+string(id)+wait, &r)
		switch {
		case err == nil && r.State.Final():
			return r, nil
		case time.Now().After(until):
			return r, errors.Join(err, fmt.Errorf("it is %q still", r.State))
		case err != nil:
			pause(restartAfter)
		}
		wait = "?wait=5s"
	}
}

// queued are the events that are in the queues.
func (p *platform) queued() (ids []wire.InvocationID, err error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	subjects, err := p.conn.Subjects(ctx, wire.StreamEvents, wire.AllEvents)
	for _, subject := range subjects {
		ids = append(ids, wire.InvocationID(subject[strings.LastIndexByte(subject, '.')+1:]))
	}
	return ids, err
}

// awaitEmpty waits until no event is in the queues.
func (p *platform) awaitEmpty(bound time.Duration) {
	p.t.Helper()
	within(p.t, bound, "the queues are empty", func() error {
		left, err := p.queued()
		if err != nil || len(left) == 0 {
			return err
		}
		var r wire.Record
		err = p.get("/v1/invocations/"+string(left[0]), &r)
		return errors.Join(fmt.Errorf("%d events are left; %s is %s with %d attempts", len(left), left[0], r.State, len(r.Attempts)), err, p.consumers())
	})
}

// consumers tells how far the queues' consumers are, as an error.
func (p *platform) consumers() error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	s, err := p.js.Stream(ctx, wire.StreamEvents)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%+v", s.CachedInfo().State)
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		text += fmt.Sprintf("; %s: delivered %d, acknowledged up to %d, %d held, %d to come",
			info.Name, info.Delivered.Stream, info.AckFloor.Stream, info.NumAckPending, info.NumPending)
	}
	return errors.Join(errors.New(text), list.Err())
}

// pause waits between two looks at something that sends no signal.
func pause(d time.Duration) { <-time.After(d) }

// within waits until something works that sends no signal.
func within(t *testing.T, bound time.Duration, what string, works func() error) {
	t.Helper()
	for until := time.Now().Add(bound); ; pause(20 * time.Millisecond) {
		err := works()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: not within %s: %v", what, bound, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	// Not 127.0.0.1, whose ports others are given at any moment.
	host := fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	l, err := net.Listen("tcp", host)
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}
