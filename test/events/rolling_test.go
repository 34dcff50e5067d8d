package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// callers call all the time, each again after a pause.
	callers, callPause = 6, 40 * time.Millisecond
	// eventPause is how often an event is sent.
	eventPause = 30 * time.Millisecond
	// deployPause is how often a version is deployed.
	deployPause = 700 * time.Millisecond
	// deployTries bounds the tries of one deploy.
	deployTries = 3
	// probePause is how often the balancer asks the gateways, and lameDuck how long they
	// serve on once they are to stop.
	probePause, lameDuck = 100 * time.Millisecond, 2 * time.Second
)

// balancer spreads requests over the gateways that are ready. It sends a request again
// only where nobody listened.
type balancer struct {
	transport *http.Transport
	hosts     []string
	turn      atomic.Uint64

	mu    sync.Mutex // guards what follows
	ready []string
}

func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	hosts := append(slices.Clone(b.ready), b.hosts...) // at last anybody
	of := max(len(b.ready), 1)
	b.mu.Unlock()
	first := int(b.turn.Add(1)) % of //nolint:gosec // it is small
	hosts[0], hosts[first] = hosts[first], hosts[0]
	var failed error
	for _, host := range hosts {
		try := r.Clone(r.Context())
		try.URL.Host, try.Host = host, host
		if r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			try.Body = body
		}
		response, err := b.transport.RoundTrip(try)
		if op, refused := errors.AsType[*net.OpError](err); err == nil || !refused || op.Op != "dial" {
			return response, err
		}
		failed = err
	}
	return nil, failed
}

// probe asks the gateways whether they are ready, until ctx is done.
func (b *balancer) probe(ctx context.Context) {
	asking := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	for {
		var ready []string
		for _, host := range b.hosts {
			if isReady(ctx, asking, host) {
				ready = append(ready, host)
			}
		}
		b.mu.Lock()
		b.ready = ready
		b.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func isReady(ctx context.Context, asking *http.Client, host string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := asking.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode == http.StatusOK
}

// load calls functions and sends events until the test's end, or finish.
func (r *rolling) load() {
	ctx, cancel := context.WithCancel(context.Background())
	stop := r.stop
	r.stop = func() { cancel(); stop() }
	finished := func() { cancel(); r.loading.Wait() }
	r.t.Cleanup(finished)
	for i := range callers {
		r.loading.Go(func() {
			name := "roll"
			if i == 0 {
				name = "kept" // always one call at once, for its one instance
			}
			r.every(ctx, callPause, func(n int) { r.call(name, i*1_000_000+n) })
		})
	}
	r.loading.Go(func() {
		r.every(ctx, eventPause, func(n int) {
			s := sent{order: order{N: n, Millis: 10}}
			event, err := json.Marshal(s.order)
			if err == nil {
				s.id, err = r.send("later", "", event)
			}
			if err != nil {
				r.t.Errorf("event %d was not accepted: %v", n, err)
				return
			}
			r.events = append(r.events, s)
		})
	})
	r.loading.Go(func() { r.every(ctx, deployPause, r.fresh) })
}

// finish ends the load.
func (r *rolling) finish() {
	r.stop()
	r.loading.Wait()
}

func (r *rolling) every(ctx context.Context, pause time.Duration, do func(n int)) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(n)
		}
	}
}

// call calls a function, which must answer with its event.
func (r *rolling) call(name string, n int) {
	event, err := json.Marshal(order{N: n, Millis: 5 + n%20})
	if err != nil {
		r.t.Error(err)
		return
	}
	target := (&url.URL{Scheme: "http", Host: "dayfly", Path: "/v1/functions/" + name + "/invocations"}).String()
	response, err := r.http.Post(target, "application/json", strings.NewReader(string(event)))
	if err != nil {
		r.t.Errorf("call %d of %s failed: %v", n, name, err)
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || string(body) != string(event) {
		r.t.Errorf("call %d of %s: %d %s: %v", n, name, response.StatusCode, body, err)
	}
	r.calls.Add(1)
	if name == "kept" {
		if response.Header.Get(wire.HeaderCold) == "true" {
			r.cold.Add(1)
		}
		r.kept.Add(1)
	}
}

// awaitKept waits until an instance of a function is kept and takes calls.
func (r *rolling) awaitKept(f wire.FunctionID) {
	r.t.Helper()
	within(r.t, startBound, "an instance is kept", func() error {
		nodes, err := r.api.Nodes(r.t.Context())
		for _, n := range nodes {
			for _, v := range n.Versions {
				if v.Version.FunctionID == f && v.Kept == 1 && v.Idle+v.Busy > 0 {
					return nil
				}
			}
		}
		return errors.Join(err, errors.New("there is none"))
	})
}

// restart has a process of a role restarted, and waits until the new one is ready.
func (r *rolling) restart(role string, i int) {
	r.t.Helper()
	r.processes[role][i].terminate(r.t)
	r.awaitReady(role, i)
}

// node is what the gateways say of a node.
func (r *rolling) node(i int) (client.Node, error) {
	nodes, err := r.api.Nodes(r.t.Context())
	for _, n := range nodes {
		if string(n.Node) == fmt.Sprintf("node-%d", i) {
			return n, nil
		}
	}
	return client.Node{}, errors.Join(err, errors.New("it is not known"))
}

// restartNode has a node restarted, waits until its next run is known, and returns the
// first word of that.
func (r *rolling) restartNode(i int) (now client.Node) {
	r.t.Helper()
	var before client.Node
	within(r.t, startBound, fmt.Sprintf("node %d is known", i), func() (err error) {
		before, err = r.node(i)
		return err
	})
	r.processes[childNode][i].terminate(r.t)
	within(r.t, startBound, fmt.Sprintf("node %d is back", i), func() (err error) {
		now, err = r.node(i)
		switch {
		case err != nil:
		case now.Gone:
			err = errors.New("it is gone")
		case now.Run == before.Run:
			err = errors.New("it is the old one")
		}
		return err
	})
	return now
}

// drain drains a node and waits until it may be switched off.
func (r *rolling) drain(i int) {
	r.t.Helper()
	id := wire.NodeID(fmt.Sprintf("node-%d", i))
	_, err := r.api.DrainNode(r.t.Context(), id)
	must(r.t, err)
	within(r.t, startBound, fmt.Sprintf("node %d is drained", i), func() error {
		state, err := r.api.Drain(r.t.Context(), id)
		if err == nil && !state.Drained {
			err = fmt.Errorf("%+v", state)
		}
		return err
	})
}

// TestRollingUpgrade: every process but NATS and S3 is restarted, one after the other, under
// load. No call fails, a deploy that is answered holds, and no event is lost. Where a node is drained, the
// instance that is kept there runs elsewhere before it goes; the node remembers after a
// restart that it drains.
func TestRollingUpgrade(t *testing.T) {
	r := startRolling(t)
	r.deploy("roll", nil)
	r.deploy("later", nil)
	kept := r.deploy("kept", func(s *functions.Spec) { s.MinInstances, s.MaxInstances = 1, 4 })
	r.awaitKept(kept)
	r.load()
	begun := time.Now()
	for _, role := range []string{"scheduler", "events", "gateway", "builder"} {
		for i := range r.processes[role] {
			r.restart(role, i)
		}
	}
	r.restartNode(0)
	r.awaitKept(kept) // it may have been there
	called := r.kept.Load()
	within(t, startBound, "calls that waited for it have ended", func() error {
		if r.kept.Load() < called+2 {
			return errors.New("they have not")
		}
		return nil
	})
	coldBefore := r.cold.Load()
	for i := range 2 {
		r.drain(i)
		if i == 0 {
			if n := r.restartNode(i); !n.Draining || len(n.Versions) > 0 {
				t.Errorf("a node that is to drain comes back as %+v", n)
			}
		}
		_, err := r.api.UndrainNode(t.Context(), wire.NodeID(fmt.Sprintf("node-%d", i)))
		must(t, err)
		within(t, startBound, "the node takes work again", func() error {
			n, err := r.node(i)
			if err == nil && n.Draining {
				err = errors.New("it drains still")
			}
			return err
		})
	}
	took := time.Since(begun)
	r.finish()
	for _, p := range r.processes["builder"] {
		p.end(syscall.SIGTERM) // it has control groups
	}
	records := r.awaitAll(r.events)
	for _, s := range r.events {
		if rec := records[s.id]; rec.State != wire.StateSucceeded {
			t.Errorf("event %d is %q after %d attempts: %v", s.order.N, rec.State, len(rec.Attempts), rec.Error)
		}
	}
	if n := r.cold.Load() - coldBefore; n > 0 {
		t.Errorf("%d calls of an instance that is kept waited for it while nodes drained", n)
	}
	r.checkDeployed()
	t.Logf("%d calls, %d deploys (%d tried anew) and %d events in %.1f s; of %d calls of the kept instance %d waited for it",
		r.calls.Load(), len(r.deployed), r.again, len(r.events), took.Seconds(), r.kept.Load(), r.cold.Load())
}
