package runtimeapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

// settable is a configuration that a test changes.
type settable struct {
	mu      sync.Mutex // guards what follows
	current functions.Config
	changed chan struct{}
	err     error
	reads   int
}

func newSettable() *settable {
	return &settable{current: functions.Config{Revision: "0", Values: map[string]string{}}, changed: make(chan struct{})}
}

func (s *settable) read(context.Context) (functions.Config, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.current, s.changed, s.err
}

// set changes the configuration; the same revision is a change of something else.
func (s *settable) set(revision, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = functions.Config{Revision: revision, Values: map[string]string{"K": value}}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *settable) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// config asks for the configuration.
func (b *bench) config(query string) (int, string) {
	b.tb.Helper()
	answer, err := b.client.Get("http://runtime/dayfly/v1/config" + query)
	must(b.tb, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(b.tb, err)
	return answer.StatusCode, string(body)
}

func wantConfig(tb testing.TB, status int, body, revision, value string) {
	tb.Helper()
	var got functions.Config
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		tb.Fatalf("%d %s: %v", status, body, err)
	}
	want := functions.Config{Revision: revision, Values: map[string]string{}}
	if value != "" {
		want.Values["K"] = value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConfig(t *testing.T) {
	b, s := open(t), newSettable()
	if status, body := b.config(""); status != http.StatusConflict || !strings.Contains(body, "no function yet") {
		t.Errorf("a stem's: %d %s", status, body)
	}
	b.SetConfiguration(s.read)
	status, body := b.config("")
	wantConfig(t, status, body, "0", "")
	s.set("7", "a")
	status, body = b.config("")
	wantConfig(t, status, body, "7", "a")
	status, body = b.config("?after=0")
	wantConfig(t, status, body, "7", "a")
	s.mu.Lock()
	s.err = wire.Errorf(wire.CodeUnavailable, "NATS is away")
	s.mu.Unlock()
	if status, body := b.config("?after=7"); status != http.StatusServiceUnavailable || !strings.Contains(body, "NATS is away") {
		t.Errorf("%d %s", status, body)
	}
}

func TestConfigWaitsForAChange(t *testing.T) {
	b, s := open(t), newSettable()
	b.SetConfiguration(s.read)
	s.set("7", "a")
	type reply struct {
		status int
		body   string
	}
	replies := make(chan reply, 1)
	go func() {
		status, body := b.config("?after=7")
		replies <- reply{status, body}
	}()
	embedtest.Eventually(t, "the question waits", func() bool { return s.asked() == 1 })
	s.set("7", "a") // another setting's change
	embedtest.Eventually(t, "it waits on", func() bool { return s.asked() == 2 })
	s.set("8", "b")
	got := embedtest.Receive(t, replies)
	wantConfig(t, got.status, got.body, "8", "b")
}

func TestConfigQuestionsAreBounded(t *testing.T) {
	b, s := open(t), newSettable()
	b.SetConfiguration(s.read)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			answer, err := b.client.Get("http://runtime/dayfly/v1/config?after=0")
			if err == nil {
				_ = answer.Body.Close()
			}
		})
	}
	embedtest.Eventually(t, "all wait", func() bool { return s.asked() == 8 })
	if status, body := b.config("?after=0"); status != http.StatusTooManyRequests {
		t.Errorf("%d %s", status, body)
	}
	status, body := b.config("")
	wantConfig(t, status, body, "0", "")
	b.End() // which ends those that wait
	all.Wait()
}

func TestConfigQuestionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, s := runtimeapi.New(), newSettable()
		api.SetConfiguration(s.read)
		begun, rec := time.Now(), httptest.NewRecorder()
		api.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/dayfly/v1/config?after=0", nil))
		if took := time.Since(begun); rec.Code != http.StatusNoContent || took != 50*time.Second {
			t.Errorf("%d after %s", rec.Code, took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/dayfly/v1/config?after=0", nil))
		}()
		synctest.Wait()
		cancel()
		<-over
	})
}
