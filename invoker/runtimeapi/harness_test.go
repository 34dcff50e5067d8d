package runtimeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	id    = wire.InvocationID("0198c0de-0000-7000-8000-000000000001")
	other = wire.InvocationID("0198c0de-0000-7000-8000-000000000002")

	base     = "http://runtime/2018-06-01/runtime/"
	patience = time.Minute
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// bench is an API that listens on a unix socket, as an instance's does.
type bench struct {
	*runtimeapi.API
	tb     testing.TB
	socket string
	client *http.Client
}

func open(tb testing.TB) *bench {
	tb.Helper()
	dir, err := os.MkdirTemp("", "api") // a socket's path must be short
	must(tb, err)
	b := &bench{API: runtimeapi.New(), tb: tb}
	b.Assign(runtimeapi.Assignment{Handler: "app.handler", TaskRoot: "/var/task"})
	b.socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", b.socket)
	must(tb, err)
	server := &http.Server{Handler: b.API}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.dial(ctx) }}
	b.client = &http.Client{Transport: transport}
	tb.Cleanup(func() {
		must(tb, server.Close())
		<-served
		transport.CloseIdleConnections()
		must(tb, os.RemoveAll(dir))
	})
	return b
}

func (b *bench) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", b.socket)
}

// raw opens a connection and writes a request's bytes to it.
func (b *bench) raw(request string) net.Conn {
	b.tb.Helper()
	conn, err := b.dial(b.tb.Context())
	must(b.tb, err)
	_, err = conn.Write([]byte(request))
	must(b.tb, err)
	return conn
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (b *bench) do(ctx context.Context, method, url string, body io.Reader, header http.Header) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return reply{}, err
	}
	if header != nil {
		request.Header = header
	}
	response, err := b.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, data}, err
}

func (b *bench) next() reply {
	b.tb.Helper()
	got, err := b.do(b.tb.Context(), http.MethodGet, base+"invocation/next", nil, nil)
	must(b.tb, err)
	return got
}

func (b *bench) post(path string, body io.Reader) reply {
	b.tb.Helper()
	got, err := b.do(b.tb.Context(), http.MethodPost, base+path, body, nil)
	must(b.tb, err)
	return got
}

func (b *bench) respond(id wire.InvocationID, body string) reply {
	b.tb.Helper()
	return b.post("invocation/"+string(id)+"/response", bytes.NewReader([]byte(body)))
}

// outcome is what an Invoke returned.
type outcome struct {
	result []byte
	err    error
}

// invoke runs Invoke in the background.
func (b *bench) invoke(ctx context.Context, e runtimeapi.Event) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		result, err := b.Invoke(ctx, e)
		done <- outcome{result, err}
	}()
	return done
}

func (b *bench) await(done <-chan outcome) outcome {
	b.tb.Helper()
	select {
	case got := <-done:
		return got
	case <-time.After(patience):
		b.tb.Fatal("Invoke does not return")
		return outcome{}
	}
}

func (b *bench) pending(done <-chan outcome) {
	b.tb.Helper()
	select {
	case got := <-done:
		b.tb.Fatalf("Invoke returned %q, %v; want it to wait", got.result, got.err)
	default:
	}
}

func wantFunctionError(tb testing.TB, err error, kind string) *wire.Error {
	tb.Helper()
	e, ok := errors.AsType[*wire.Error](err)
	if !ok || e.Code != wire.CodeFunctionError || e.Type != kind {
		tb.Fatalf("error %v; want function.error of type %q", err, kind)
	}
	return e
}

func wantRefusal(tb testing.TB, got reply, status int, kind string) {
	tb.Helper()
	var body struct{ ErrorType, ErrorMessage string }
	must(tb, json.Unmarshal(got.body, &body))
	if got.status != status || body.ErrorType != kind || body.ErrorMessage == "" {
		tb.Fatalf("got %d %s; want %d of type %s with a message", got.status, got.body, status, kind)
	}
}
