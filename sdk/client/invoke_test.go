package client_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/google/go-cmp/cmp"
)

func TestInvoke(t *testing.T) {
	event := []byte("{\"a\": 1}\n")
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(body, event) {
			t.Errorf("body %q, error %v", body, err)
		}
		if got, want := r.Method+" "+r.RequestURI, "POST /v1/functions/thumbnail/invocations"; got != want {
			t.Errorf("the server got %s, want %s", got, want)
		}
		if r.ContentLength != int64(len(event)) {
			t.Errorf("Content-Length %d", r.ContentLength)
		}
		h := w.Header()
		h.Set(wire.HeaderInvocation, string(invocation))
		h.Set(wire.HeaderVersion, "3")
		h.Set(wire.HeaderCold, "true")
		h.Set(wire.HeaderRunMicros, "1500")
		h.Set(wire.HeaderInitMicros, "80000")
		_, _ = w.Write([]byte{0, 1, 255})
	})
	result, err := c.Invoke(t.Context(), "thumbnail:live", bytes.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	want := &client.Result{
		Body: []byte{0, 1, 255}, Invocation: invocation, Version: 3, Cold: true,
		InitTime: 80 * time.Millisecond, RunTime: 1500 * time.Microsecond,
	}
	if diff := cmp.Diff(want, result); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInvokeFailureNamesTheInvocation(t *testing.T) {
	sent := &wire.Error{Code: wire.CodeFunctionExited, Message: "exit code 1"}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(wire.HeaderInvocation, string(invocation))
		w.Header().Set(wire.HeaderVersion, "2")
		writeProblem(w, sent, invocation)
	})
	result, err := c.Invoke(t.Context(), "x", strings.NewReader("{}"))
	if diff := cmp.Diff(error(sent), err); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&client.Result{Invocation: invocation, Version: 2}, result); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestInvokeElsewhere(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	result, err := c.Invoke(t.Context(), "x", strings.NewReader("{}"))
	if _, ok := errors.AsType[*client.ResponseError](err); !ok || result != nil {
		t.Errorf("Invoke = %v, %v; want a ResponseError", result, err)
	}
}

func TestInvokeBounds(t *testing.T) {
	var served int
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		served++
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil || n != wire.MaxSyncPayload {
			t.Errorf("%d bytes, error %v", n, err)
		}
		w.Header().Set(wire.HeaderInvocation, string(invocation))
		_, _ = w.Write(make([]byte, wire.MaxSyncPayload+1))
	})
	if _, err := c.Invoke(t.Context(), "x", bytes.NewReader(make([]byte, wire.MaxSyncPayload+1))); !wire.HasCode(err, wire.CodeTooLarge) || served != 0 {
		t.Errorf("event: error = %v after %d requests", err, served)
	}
	if _, err := c.Invoke(t.Context(), "x", bytes.NewReader(make([]byte, wire.MaxSyncPayload))); !wire.HasCode(err, wire.CodeTooLarge) || served != 1 {
		t.Errorf("result: error = %v after %d requests", err, served)
	}
}

func TestInvokeReportsItsReader(t *testing.T) {
	c := newClient(t, "http://host")
	broken := errors.New("broken pipe")
	if _, err := c.Invoke(t.Context(), "x", io.MultiReader(strings.NewReader("{"), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
