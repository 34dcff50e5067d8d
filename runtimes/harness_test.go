package runtimes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// answer is what an instance told the Runtime API.
type answer struct {
	kind      string // response, error, or init
	id        string
	body      []byte
	errorType string // the header's
	// Of a response that is streamed:
	mode, contentType string
	trailer           http.Header
}

func (a answer) report(t *testing.T) (r struct {
	ErrorType, ErrorMessage string
	StackTrace              []string
}) {
	t.Helper()
	if err := json.Unmarshal(a.body, &r); err != nil || a.kind == "response" {
		t.Fatalf("not an error report: %s %s (%v)", a.kind, a.body, err)
	}
	if a.errorType != r.ErrorType {
		t.Errorf("header says %q, body %q", a.errorType, r.ErrorType)
	}
	return r
}

// instance is a container as an invoker would make it, with a Runtime API that
// the test drives.
type instance struct {
	t       *testing.T
	events  chan event
	answers chan answer
	exited  chan int // the container's exit code
	output  string   // host folder behind /mnt/output

	mu      sync.Mutex
	log     bytes.Buffer
	changed chan struct{}
}

type event struct {
	id      string
	body    []byte
	chunked bool
}

// images holds, by root, what makes its image at most once.
var images = func() map[string]func() (string, error) {
	makers := map[string]func() (string, error){}
	for _, r := range All() {
		makers[r.Root()] = sync.OnceValues(func() (string, error) { return makeImage(r) })
	}
	return makers
}()

func makeImage(r Runtime) (string, error) {
	image := fmt.Sprintf("dayfly-root-%s:%s", r.Root(), r.RootDigest()[:12])
	if _, err := docker("image", "inspect", image); err == nil {
		return image, nil
	}
	dir, err := os.MkdirTemp("", "dayfly-root-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	tar := filepath.Join(dir, "root.tar")
	if err := BuildRoot(ctx, r, tar, os.Stderr); err != nil {
		return "", err
	}
	_, err = docker("import", tar, image)
	return image, err
}

func docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s (these tests need a running Docker Engine)", args[0], err, out)
	}
	return string(out), err
}

// start runs the files as a function in a container of the runtime's root.
func start(t *testing.T, runtimeName, handler string, files map[string]string) *instance {
	t.Helper()
	return startMany(t, runtimeName, handler, 1, files)
}

// startMany is start for a function that takes so many events at once.
func startMany(t *testing.T, runtimeName, handler string, concurrency int, files map[string]string) *instance {
	t.Helper()
	task := filepath.Join(t.TempDir(), "task")
	writeFiles(t, task, files)
	return startFolder(t, runtimeName, handler, task, "none", concurrency)
}

// startFolder runs the function in the folder task. With the network "host" it
// can also reach the Runtime API by TCP.
func startFolder(t *testing.T, runtimeName, handler, task, network string, concurrency int, env ...string) *instance {
	t.Helper()
	r, ok := Lookup(runtimeName)
	if !ok {
		t.Fatalf("no runtime %q", runtimeName)
	}
	image, err := images[r.Root()]()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in := &instance{t: t, events: make(chan event, 10), answers: make(chan answer, 10), exited: make(chan int, 1),
		output: filepath.Join(dir, "output"), changed: make(chan struct{})}
	run, shims := filepath.Join(dir, "run"), filepath.Join(dir, "shims")
	if err := errors.Join(WriteShims(shims), os.Mkdir(in.output, 0o755), os.Chmod(in.output, 0o1777|os.ModeSticky), os.Mkdir(run, 0o755)); err != nil {
		t.Fatal(err)
	}
	in.readLog(filepath.Join(run, "log"))
	address := in.serve(filepath.Join(run, "runtime.sock"), handler, concurrency)

	name := "dayfly-test-" + uuid.NewString()
	args := []string{"run", "--rm", "--name", name, "--label", "dayfly.test=1",
		"--network", network, "--read-only", "--user", "65532:65532", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", "--pids-limit", "64", "--memory", "256m",
		"--tmpfs", "/tmp", "-w", "/var/task",
		"-v", task + ":/var/task:ro", "-v", shims + ":/opt/dayfly:ro", "-v", run + ":/run/dayfly", "-v", in.output + ":/mnt/output",
		"-e", "LANG=C.UTF-8", "-e", "HOME=/tmp", "-e", "TZ=UTC", "-e", "DAYFLY_RUNTIME_SOCKET=/run/dayfly/runtime.sock",
		"-e", "AWS_LAMBDA_FUNCTION_NAME=demo", "-e", "AWS_LAMBDA_FUNCTION_VERSION=3", "-e", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256",
		"-e", "AWS_LAMBDA_LOG_GROUP_NAME=/dayfly/default/demo", "-e", "AWS_LAMBDA_LOG_STREAM_NAME=i-1", "-e", "DAYFLY_OUTPUT_DIR=/mnt/output",
		"-e", "AWS_LAMBDA_RUNTIME_API=" + address}
	for _, entry := range env {
		args = append(args, "-e", entry)
	}
	args = append(args, image, "/bin/sh", "-c", `exec "$0" "$@" >>/run/dayfly/log 2>&1`)
	cmd := exec.Command("docker", append(args, r.Command...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("docker run: %v (these tests need a running Docker Engine)", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // the exit code says it
		if said.Len() > 0 {
			t.Logf("docker run: %s", &said)
		}
		in.exited <- cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		_, _ = docker("rm", "-f", name) // gone already when the function exited
		<-done
		if t.Failed() {
			t.Logf("log:\n%s", in.logged())
		}
	})
	return in
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// readLog makes the FIFO and collects what is printed into it.
func (in *instance) readLog(path string) {
	if err := errors.Join(syscall.Mkfifo(path, 0o622), os.Chmod(path, 0o622)); err != nil {
		in.t.Fatal(err)
	}
	fifo, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		in.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := fifo.Read(buf)
			if err != nil {
				return
			}
			in.mu.Lock()
			in.log.Write(buf[:n])
			close(in.changed)
			in.changed = make(chan struct{})
			in.mu.Unlock()
		}
	}()
	in.t.Cleanup(func() { fifo.Close(); <-done })
}

func (in *instance) logged() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.log.String()
}

// waitLog waits until the log contains text.
func (in *instance) waitLog(text string) {
	in.t.Helper()
	deadline := time.After(patience)
	for {
		in.mu.Lock()
		found, changed := strings.Contains(in.log.String(), text), in.changed
		in.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			in.t.Fatalf("the log never said %q", text)
		}
	}
}

// serve answers the Runtime API on the unix socket and on the TCP address that
// it returns.
func (in *instance) serve(socket, handler string, concurrency int) (address string) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dayfly/v1/assignment", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"handler": handler, "taskRoot": "/var/task", "concurrency": concurrency, "env": map[string]string{"FROM_ASSIGNMENT": "grüß", "TZ": "Asia/Tokyo"},
		})
	})
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case e := <-in.events:
			h := w.Header()
			h.Set("Lambda-Runtime-Aws-Request-Id", e.id)
			h.Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(30*time.Second).UnixMilli()))
			h.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:dayfly:lambda:local:default:function:demo:3")
			h.Set("Lambda-Runtime-Trace-Id", "Root=1")
			h.Set("Lambda-Runtime-Client-Context", `{"custom":{"k":"v"}}`)
			if !e.chunked {
				h.Set("Content-Length", fmt.Sprint(len(e.body)))
				_, _ = w.Write(e.body)
				return
			}
			for len(e.body) > 0 {
				n := min(len(e.body), 100<<10)
				_, _ = w.Write(e.body[:n])
				_ = http.NewResponseController(w).Flush()
				e.body = e.body[n:]
			}
		case <-r.Context().Done():
		}
	})
	take := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			w.WriteHeader(http.StatusAccepted)
			in.answers <- answer{
				kind: kind, id: r.PathValue("id"), body: body, errorType: r.Header.Get("Lambda-Runtime-Function-Error-Type"),
				mode: r.Header.Get("Lambda-Runtime-Function-Response-Mode"), contentType: r.Header.Get("Content-Type"), trailer: r.Trailer,
			}
		}
	}
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", take("response"))
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", take("error"))
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", take("init"))
	mux.HandleFunc("POST /dayfly/v1/{what}/{name}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.PathValue("what") == "publish" {
			w.WriteHeader(http.StatusAccepted)
		}
		// What was asked, and in whose name.
		_, _ = fmt.Fprintf(w, "[%q,%q,%q]", r.URL.Path, body, r.Header.Get("Dayfly-Invocation"))
	})
	mux.HandleFunc("GET /dayfly/v1/config", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("after") { // nothing changes
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, `{"revision":"1","values":{"greeting":"Hello"}}`)
	})

	listener, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o666)
	}
	if err != nil {
		in.t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		in.t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }() // both end with Close
	go func() { _ = server.Serve(tcp) }()
	in.t.Cleanup(func() { server.Close() })
	return tcp.Addr().String()
}

// send gives the instance an event without waiting for the answer.
func (in *instance) send(body string) { in.events <- event{id: uuid.NewString(), body: []byte(body)} }

// call gives the instance an event and returns its answer.
func (in *instance) call(e event) answer {
	in.t.Helper()
	e.id = uuid.NewString()
	in.events <- e
	a := in.answered()
	if a.id != e.id {
		in.t.Fatalf("answered %s, not %s", a.id, e.id)
	}
	return a
}

func (in *instance) answered() answer {
	in.t.Helper()
	select {
	case a := <-in.answers:
		return a
	case <-time.After(patience):
		in.t.Fatalf("no answer; log:\n%s", in.logged())
		return answer{}
	}
}

// exit returns the exit code of the container.
func (in *instance) exit() int {
	in.t.Helper()
	select {
	case code := <-in.exited:
		return code
	case <-time.After(patience):
		in.t.Fatal("it did not exit")
		return 0
	}
}

// result wants a response and returns it.
func (in *instance) result(body string) string {
	in.t.Helper()
	a := in.call(event{body: []byte(body)})
	if a.kind != "response" {
		in.t.Fatalf("%s: got an error: %s", body, a.body)
	}
	return string(a.body)
}
