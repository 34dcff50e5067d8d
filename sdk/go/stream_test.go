package dayfly

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestFlushSendsWhatIsThere: a response whose handler flushes is sent as it is made, any
// other at once.
func TestFlushSendsWhatIsThere(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		w.WriteHeader(http.StatusAccepted)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, strings.Repeat("x", flushBytes))
		_, _ = io.WriteString(w, "end")
	})
	mux.HandleFunc("/panic", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		panic("no more")
	})
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "plain") })
	call, ended := run(t, func(ctx context.Context, in HTTPRequest) (HTTPResponse, error) { return serveHTTP(ctx, mux, in) })
	event := func(path string) string {
		return `{"rawPath":"` + path + `","requestContext":{"http":{"method":"GET"}}}`
	}
	for range 2 {
		got := call(event("/stream"))
		prelude, body, ok := strings.Cut(got.body, strings.Repeat("\x00", 8))
		want := `{"statusCode":202,"headers":{"content-type":"text/event-stream"},"cookies":["a=b"]}`
		if !ok || prelude != want || body != "data: 1\n\n"+strings.Repeat("x", flushBytes)+"end" || got.mode != "streaming" {
			t.Errorf("%s %.200q", got.mode, got.body)
		}
		if got := call(event("/plain")); got.mode != "" || !strings.Contains(got.body, `"body":"plain"`) {
			t.Errorf("%+v", got)
		}
	}
	got := call(event("/panic"))
	said, err := base64.StdEncoding.DecodeString(got.trailer.Get("Lambda-Runtime-Function-Error-Body"))
	if !strings.HasSuffix(got.body, "some") || err != nil || !strings.Contains(string(said), "no more") {
		t.Errorf("%+v %s %v", got, said, err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("ended with %v", err)
	}
}
