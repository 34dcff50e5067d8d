package invoker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestStoreWatch(t *testing.T) {
	begin := time.Now()
	full := errors.New("S3 is full")
	type look struct {
		at     time.Duration
		failed bool  // an output could not be stored just before
		takes  error // what storing something says
		tries  bool  // whether it is tried
		waits  bool  // whether an event waits
	}
	for name, looks := range map[string][]look{
		"all is well":        {{at: 0}, {at: time.Hour}},
		"it takes all again": {{at: 0, failed: true, tries: true}, {at: 1}},
		"it takes nothing": {
			{at: 0, failed: true, takes: full, tries: true, waits: true},
			{at: storeProbeEvery - 1, waits: true},
			{at: storeProbeEvery, takes: full, tries: true, waits: true},
			{at: 2*storeProbeEvery - 1, failed: true, waits: true},
			{at: 2 * storeProbeEvery, tries: true},
			{at: 2*storeProbeEvery + 1},
			{at: 2*storeProbeEvery + 2, failed: true, tries: true},
		},
	} {
		s := newStoreWatch(begin)
		for i, l := range looks {
			now := begin.Add(l.at)
			if l.failed {
				s.failed(now)
			}
			tried := false
			wait := s.check(t.Context(), now, func(context.Context) error {
				tried = true
				return l.takes
			})
			if tried != l.tries || (wait != nil) != l.waits {
				t.Errorf("%s, look %d: tried %t, wait: %v", name, i, tried, wait)
			}
		}
	}
}

// A try that another one overtook does not say that all is well.
func TestStoreWatchTriesAtOnce(t *testing.T) {
	begin := time.Now()
	full := errors.New("S3 is full")
	s := newStoreWatch(begin)
	s.failed(begin)
	first := s.check(t.Context(), begin, func(ctx context.Context) error {
		second := s.check(ctx, begin.Add(storeProbeEvery), func(context.Context) error { return full })
		if second == nil {
			t.Error("an event does not wait")
		}
		return nil
	})
	if first != nil {
		t.Errorf("what was stored was not: %v", first)
	}
	if s.check(t.Context(), begin.Add(storeProbeEvery), nil) == nil {
		t.Error("an event does not wait")
	}
}

// choosy is a way to S3 on which a test answers what is put into outputs, unless onPut is
// nil.
type choosy struct {
	onPut atomic.Pointer[http.HandlerFunc]
}

func (c *choosy) set(answer http.HandlerFunc) { c.onPut.Store(&answer) }
func (c *choosy) mend()                       { c.onPut.Store(nil) }

// refuse answers as an S3 whose disk is full.
func refuse(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInsufficientStorage) }

// store opens S3 over a way of its own.
func (c *choosy) store(t *testing.T) *blob.Store {
	t.Helper()
	onward := &http.Transport{DialContext: shared.s3.Dial}
	proxy := &httputil.ReverseProxy{Transport: onward, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host // which is signed
		r.Out.Host = r.In.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := c.onPut.Load()
		outputs := strings.HasPrefix(r.URL.Path, "/dayfly/"+wire.AllOutputs)
		if answer != nil && outputs && (r.Method == http.MethodPut || r.Method == http.MethodPost) {
			(*answer)(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		onward.CloseIdleConnections()
	})
	store, err := shared.open(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	})
	must(t, err)
	return store
}

// TestS3TakesNothing: an S3 that answers and takes nothing costs the first event an
// attempt, and no other, however large its result is.
func TestS3TakesNothing(t *testing.T) {
	for name, result := range map[string]string{"small": `1`, "large": `"` + strings.Repeat("x", 3*mib/2) + `"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var way choosy
			var runs atomic.Int32
			n := startNode(t, each(func(*process, string, []byte) ([]byte, error) {
				runs.Add(1)
				return []byte(result), nil
			}), over(way.store(t)))
			v := n.deploy()
			way.set(refuse)
			_, a := n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
			n.wantError(a, wire.CodeInternal, false, "store the output")
			_, a = n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
			n.wantError(a, wire.CodeUnavailable, true, "events wait")
			if ran := runs.Load(); ran != 1 {
				t.Errorf("%d events ran", ran)
			}
			way.mend()
			embedtest.Eventually(t, "an event's output in S3", func() bool {
				_, a := n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
				return a.Error == nil && a.Output != nil
			})
		})
	}
}

// TestCancelWhileStoring: it is the cancelling that ended the event, and S3 is not to
// blame.
func TestCancelWhileStoring(t *testing.T) {
	for name, result := range map[string]string{"small": `1`, "large": `"` + strings.Repeat("x", 3*mib/2) + `"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var way choosy
			n := startNode(t, each(func(*process, string, []byte) ([]byte, error) { return []byte(result), nil }), over(way.store(t)))
			v, id := n.deploy(), newInvocation()
			storing, over := make(chan struct{}, 10), make(chan struct{})
			defer close(over)
			way.set(func(http.ResponseWriter, *http.Request) {
				storing <- struct{}{}
				<-over
			})
			done := make(chan answer, 1)
			go func() {
				a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease(), Event: true}, []byte(`1`))
				if err != nil {
					a.Error = wire.AsError(err)
				}
				done <- a
			}()
			embedtest.Receive(t, storing)
			n.cancel(id)
			n.wantError(embedtest.Receive(t, done), wire.CodeCancelled, false, "cancelled")
			way.mend()
			_, a := n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
			if a.Error != nil {
				t.Errorf("the next event: %v", a.Error)
			}
		})
	}
}
