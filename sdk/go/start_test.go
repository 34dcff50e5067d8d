package dayfly

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeAPI is a Runtime API on a unix socket that hands out events and keeps the
// answers.
type fakeAPI struct {
	socket  string
	events  chan string
	answers chan answer
}

type answer struct {
	path, body, errorType string
	mode                  string
	trailer               http.Header
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	// Not below t.TempDir: a socket's path is limited to 107 bytes.
	dir, err := os.MkdirTemp("", "dayfly-sdk-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	api := &fakeAPI{socket: filepath.Join(dir, "runtime.sock"), events: make(chan string, 10), answers: make(chan answer, 10)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case e := <-api.events:
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", "id-1")
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(time.Minute).UnixMilli()))
			_, _ = io.WriteString(w, e)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /2018-06-01/runtime/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.WriteHeader(http.StatusAccepted)
		api.answers <- answer{
			path: strings.TrimPrefix(r.URL.Path, apiPath), body: string(body), errorType: r.Header.Get("Lambda-Runtime-Function-Error-Type"),
			mode: r.Header.Get("Lambda-Runtime-Function-Response-Mode"), trailer: r.Trailer,
		}
	})
	listener, err := net.Listen("unix", api.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(mux)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return api
}

// run serves h; it returns how to call it, and what serving it ended with.
func run[In, Out any](t *testing.T, h func(context.Context, In) (Out, error)) (call func(string) answer, ended <-chan error) {
	t.Helper()
	api := newFakeAPI(t)
	c, err := newClient(func(name string) string {
		return map[string]string{"DAYFLY_RUNTIME_SOCKET": api.socket}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, c, rawHandler(h)); close(done) }()
	t.Cleanup(func() {
		cancel()
		for range done { // until it has ended
		}
		c.close()
	})
	return func(event string) answer {
		t.Helper()
		api.events <- event
		select {
		case a := <-api.answers:
			return a
		case <-time.After(time.Minute):
			t.Fatal("no answer")
			return answer{}
		}
	}, done
}

type order struct {
	Count int `json:"count"`
}

func TestServeTyped(t *testing.T) {
	call, _ := run(t, func(ctx context.Context, in order) (order, error) {
		inv, ok := FromContext(ctx)
		deadline, has := ctx.Deadline()
		if !ok || inv.ID != "id-1" || !has || !deadline.Equal(inv.Deadline) {
			return order{}, fmt.Errorf("context: %+v %v %v", inv, ok, deadline)
		}
		return order{in.Count + 1}, nil
	})
	for range 3 {
		if got := call(`{"count":41}`); got.path != "invocation/id-1/response" || got.body != `{"count":42}` {
			t.Errorf("got %+v", got)
		}
	}
	if got := call(""); got.body != `{"count":1}` {
		t.Errorf("an empty event: got %+v", got)
	}
	if got := call(`{"count":"x"}`); got.path != "invocation/id-1/error" || got.errorType != "Runtime.UnmarshalError" {
		t.Errorf("got %+v", got)
	}
}

func TestServeRaw(t *testing.T) {
	call, _ := run(t, func(_ context.Context, in []byte) (json.RawMessage, error) { return in, nil })
	large := strings.Repeat("x", 5<<20)
	for _, event := range []string{"", "not json", `{"a": 1}`, large} {
		if got := call(event); got.body != event {
			t.Errorf("got %d bytes of %d", len(got.body), len(event))
		}
	}
}

func TestServeErrors(t *testing.T) {
	call, _ := run(t, func(_ context.Context, in string) (any, error) {
		switch in {
		case "path":
			return nil, &os.PathError{Op: "open", Path: "x", Err: errors.New("no")}
		case "plain":
			return nil, errors.New(strings.Repeat("y", maxMessage+1))
		case "chan":
			return make(chan int), nil
		}
		return make([]byte, maxPayload+1), nil
	})
	for event, want := range map[string]string{`"path"`: "PathError", `"plain"`: "errorString", `"chan"`: "Runtime.MarshalError", `"large"`: "Function.ResponseSizeTooLarge"} {
		got := call(event)
		var report errorReport
		if err := json.Unmarshal([]byte(got.body), &report); err != nil || report.Type != want || got.errorType != want || len(report.Message) > maxMessage+8 {
			t.Errorf("%s: got %.200s, %v", event, got.body, err)
		}
	}
}

func explode() { panic("boom") }

func TestServePanics(t *testing.T) {
	call, ended := run(t, func(context.Context, any) (any, error) { explode(); return nil, nil })
	got := call("{}")
	var report errorReport
	if err := json.Unmarshal([]byte(got.body), &report); err != nil || report.Type != "panic" || report.Message != "panic: boom" {
		t.Fatalf("got %s, %v", got.body, err)
	}
	if len(report.Trace) != 2 || !strings.Contains(report.Trace[0], "explode") || !strings.Contains(report.Trace[1], "TestServePanics") {
		t.Errorf("the trace is %q", report.Trace)
	}
	select {
	case err := <-ended:
		if p := (*panicError)(nil); !errors.As(err, &p) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it goes on after a panic")
	}
}

func TestNewClient(t *testing.T) {
	if _, err := newClient(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "DAYFLY_RUNTIME_SOCKET") {
		t.Errorf("got %v", err)
	}
	c, err := newClient(func(name string) string { return map[string]string{"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}[name] })
	if err != nil || c.network != "tcp" || c.address != "127.0.0.1:9001" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestPut(t *testing.T) {
	dir := t.TempDir()
	ctx := context.WithValue(t.Context(), invocationKey{}, Invocation{OutputDir: dir})
	if err := Put(ctx, "a/b/c.txt", strings.NewReader("text")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a/b/c.txt")); err != nil || string(got) != "text" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../x", "/etc/x", "a/../../x", "link/tmp/x"} {
		if err := Put(ctx, name, strings.NewReader("x")); err == nil {
			t.Errorf("it took %q", name)
		}
	}
}

func TestServeHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /pets/{id}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		cookie, err := r.Cookie("c")
		if err != nil {
			t.Error(err)
		}
		http.SetCookie(w, &http.Cookie{Name: "d", Value: "2"})
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %s %s", r.PathValue("id"), r.FormValue("q"), body, cookie.Value, r.Host)
	})
	mux.HandleFunc("GET /binary", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{0xff, 0}) })
	in := HTTPRequest{RawPath: "/pets/7", RawQueryString: "q=a%20b", Cookies: []string{"c=1"}, Body: "aGk=", IsBase64Encoded: true,
		Headers: map[string]string{"host": "x.example"}, RequestContext: RequestContext{HTTP: HTTPDetails{Method: "POST"}}}
	out, err := serveHTTP(t.Context(), mux, in)
	if err != nil || out.StatusCode != http.StatusTeapot || out.Body != "7 a b hi 1 x.example" || !slices.Equal(out.Cookies, []string{"d=2"}) {
		t.Errorf("got %+v, %v", out, err)
	}
	out, err = serveHTTP(t.Context(), mux, HTTPRequest{RawPath: "/binary", RequestContext: RequestContext{HTTP: HTTPDetails{Method: "GET"}}})
	if err != nil || !out.IsBase64Encoded || out.Body != "/wA=" {
		t.Errorf("got %+v, %v", out, err)
	}
	if _, err := serveHTTP(t.Context(), mux, HTTPRequest{}); err == nil {
		t.Error("it took an event that is no HTTP request")
	}
}

func TestSourceIsComplete(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if name == "embed.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		if _, err := Source.ReadFile(name); err != nil {
			t.Errorf("embed.go does not list %s", name)
		}
	}
}

// TestConnectionClosedAfterAnAnswer: the question that was sent with the answer is
// asked again.
func TestConnectionClosedAfterAnAnswer(t *testing.T) {
	dir, err := os.MkdirTemp("", "dayfly-sdk-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	answer := func(script ...string) {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for _, said := range script {
			r, err := http.ReadRequest(in)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			asked <- r.Method
			_, _ = io.WriteString(conn, said)
		}
	}
	const event = "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: id-1\r\nContent-Length: 1\r\n\r\n1"
	go func() {
		answer(event, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		answer(event)
		close(asked)
	}()
	c := &client{network: "unix", address: listener.Addr().String(), host: "x"}
	for range 2 {
		if _, body, err := c.next(t.Context()); err != nil || string(body) != "1" {
			t.Fatalf("%q, %v", body, err)
		}
		c.respond("id-1", []byte("1"))
	}
	var methods []string
	for m := range asked {
		methods = append(methods, m)
	}
	if want := []string{"GET", "POST", "GET"}; !slices.Equal(methods, want) {
		t.Errorf("asked %v, want %v", methods, want)
	}
	c.close()
	_ = listener.Close()
}
