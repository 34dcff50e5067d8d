package load

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc) Target {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return Target{Addr: server.Listener.Addr().String(), Path: "/x"}
}

func TestEveryAnswerCounts(t *testing.T) {
	var served atomic.Int64
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		_, _ = w.Write([]byte("hello"))
	})
	for name, load := range map[string]func(context.Context) (Result, error){
		"closed": func(ctx context.Context) (Result, error) { return Closed(ctx, target, 4, 20*time.Millisecond) },
		"once":   func(ctx context.Context) (Result, error) { return Once(ctx, target, 7) },
		"open": func(ctx context.Context) (Result, error) {
			return Open(ctx, target, 2, 1000, 20*time.Millisecond)
		},
	} {
		served.Store(0)
		result, err := load(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := int64(len(result.Latencies)), served.Load(); got != want || got == 0 {
			t.Errorf("%s: %d latencies of %d requests", name, got, want)
		}
		if name == "once" && len(result.Latencies) != 7 {
			t.Errorf("once: %d latencies", len(result.Latencies))
		}
		if name == "open" && len(result.Latencies) != 20 {
			t.Errorf("open: %d latencies", len(result.Latencies))
		}
	}
}

func TestAFailureFails(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of beans", http.StatusServiceUnavailable)
	})
	_, err := Closed(t.Context(), target, 2, time.Second)
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "out of beans") {
		t.Errorf("got %v", err)
	}
}

func TestOpenCountsFromTheDueMoment(t *testing.T) {
	// One connection, a server that takes 20 ms: the last of ten requests that
	// were due within 10 ms waited for the nine before it.
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
		}
		_, _ = w.Write([]byte("hello"))
	})
	result, err := Open(t.Context(), target, 1, 1000, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if last := result.Latencies[len(result.Latencies)-1]; last < 180*time.Millisecond {
		t.Errorf("the last one took %s", last)
	}
}

func TestPerSecond(t *testing.T) {
	result := Result{Latencies: make([]time.Duration, 500), Elapsed: 2 * time.Second}
	if got := result.PerSecond(); got != 250 {
		t.Errorf("%v per second", got)
	}
}

func TestStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := Closed(ctx, target, 1, time.Minute); err == nil {
		t.Error("no error")
	}
}
