package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// oneInstance has all calls meet in one process.
const oneInstance = "concurrency: 4\nmaxInstances: 1\n"

// open sends a GET and returns once the answer's head is here.
func (p *platform) open(ctx context.Context, t *testing.T, path string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// readTick reads one server-sent event.
func readTick(t *testing.T, from *bufio.Reader, want string) {
	t.Helper()
	tick, err := from.ReadString('\n')
	if err == nil {
		_, err = from.ReadString('\n')
	}
	if err != nil || tick != want {
		t.Fatalf("%q, %v; want %q", tick, err, want)
	}
}

// TestServerSentEvents: each is here while the function waits to make the next.
func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	for _, lang := range []struct{ name, manifest, source string }{
		{"node", "runtime: node\nhandler: app.handler\n", "streaming/app.mjs"},
		{"python", "runtime: python\nhandler: app.handler\n", "streaming/app.py"},
		{"go", "runtime: go\n", "streaming/main.go"},
	} {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			onBoth(t, func(t *testing.T, p *platform) {
				t.Parallel()
				name := p.shared(t, "name: ticks-"+lang.name+"\n"+lang.manifest+oneInstance, lang.source+".txt")
				ctx, cancel := context.WithTimeout(t.Context(), callBound)
				defer cancel()
				response := p.open(ctx, t, "/f/"+name+"/ticks")
				if response.StatusCode != http.StatusAccepted || response.Header.Get("Content-Type") != "text/event-stream" {
					t.Errorf("%d %v", response.StatusCode, response.Header)
				}
				events := bufio.NewReader(response.Body)
				for n := 1; n <= 3; n++ {
					readTick(t, events, fmt.Sprintf("data: %d\n", n))
					p.do(t, http.MethodGet, "/f/"+name+"/go", nil).want(t, http.StatusOK)
				}
				if rest, err := io.ReadAll(events); err != nil || len(rest) != 0 {
					t.Errorf("%q, %v", rest, err)
				}
				id := response.Header.Get(wire.HeaderInvocation)
				if r := p.record(t, id); r.State != wire.StateSucceeded {
					t.Errorf("record %+v", r)
				}
			})
		})
	}
}

// streamer deploys the function in Node.js under a name of its own.
func (p *platform) streamer(t *testing.T, name, more string) string {
	t.Helper()
	return p.shared(t, "name: "+name+"\nruntime: node\nhandler: app.handler\n"+more, "streaming/app.mjs.txt")
}

// TestClientLeavesAStream: its function is killed.
func TestClientLeavesAStream(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.streamer(t, "left", "timeout: 10m\n")
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		response := p.open(ctx, t, "/f/"+name+"/ticks")
		readTick(t, bufio.NewReader(response.Body), "data: 1\n")
		leave()
		r := p.record(t, response.Header.Get(wire.HeaderInvocation))
		if r.State != wire.StateFailed || r.Error == nil || r.Error.Code != wire.CodeCancelled {
			t.Errorf("record %+v with error %v", r, r.Error)
		}
		next := p.do(t, http.MethodGet, "/f/"+name+"/go", nil).want(t, http.StatusOK)
		if id := next.invocation(); p.record(t, id).Instance == r.Instance {
			t.Errorf("instance %s lives on", r.Instance)
		}
	})
}

// TestStreamsThatFail are broken off for the client, by an error and by the deadline.
func TestStreamsThatFail(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		for path, code := range map[string]wire.Code{"/fail": wire.CodeFunctionError, "/ticks": wire.CodeFunctionTimeout} {
			name := p.streamer(t, "broken", "timeout: 3s\n"+oneInstance)
			response := p.open(t.Context(), t, "/f/"+name+path)
			if path == "/fail" {
				p.do(t, http.MethodGet, "/f/"+name+"/go", nil).want(t, http.StatusOK)
			}
			if got, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) == 0 {
				t.Errorf("%s: %q, %v", path, got, err)
			}
			if r := p.record(t, response.Header.Get(wire.HeaderInvocation)); r.Error == nil || r.Error.Code != code {
				t.Errorf("%s: record %+v with error %v", path, r, r.Error)
			}
		}
	})
}

// resident is what all processes of the platform hold in memory, in bytes.
func (p *platform) resident(t *testing.T) (total int64) {
	t.Helper()
	for role, proc := range p.procs {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", proc.cmd.Process.Pid))
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		kib, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		total += kib << 10
	}
	return total
}

// TestSlowClientHoldsTheFunctionBack: what it does not read is not made, nor kept.
func TestSlowClientHoldsTheFunctionBack(t *testing.T) {
	t.Parallel()
	p := private(t, "roles", options{})
	name := p.streamer(t, "flood", "timeout: 15m\n"+oneInstance)
	p.do(t, http.MethodGet, "/f/"+name+"/sent", nil).want(t, http.StatusOK)
	before := p.resident(t)
	response := p.open(t.Context(), t, "/f/"+name+"/flood")
	var sent int
	same := 0
	eventually(t, patience, func() error {
		a := p.do(t, http.MethodGet, "/f/"+name+"/sent", nil).want(t, http.StatusOK)
		now, err := strconv.Atoi(string(a.body))
		if err != nil {
			return err
		}
		if same++; now != sent || now == 0 {
			sent, same = now, 0
		}
		if same < 20 {
			return fmt.Errorf("it has sent %d MiB, and goes on", now)
		}
		return nil
	})
	grown := p.resident(t) - before
	t.Logf("held back after %d MiB; all processes grew by %d MiB", sent, grown>>20)
	if sent > 50 || grown > 50<<20 {
		t.Errorf("a client that reads nothing got %d MiB, and %d MiB are held", sent, grown>>20)
	}
	if n, err := io.Copy(io.Discard, response.Body); err != nil || n != 100<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestLargeEvents: event and result of the largest size go through S3.
func TestLargeEvents(t *testing.T) {
	t.Parallel()
	for name, function := range map[string]files{
		"python": {"app.py": "def handler(event, context):\n    return event\n"},
		"node":   {"app.mjs": "export const handler = async (event) => event;\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := world.up()
			if err != nil {
				t.Fatal(err)
			}
			function["dayfly.yaml"] = "name: huge-" + name + "\nruntime: " + name + "\nhandler: app.handler\nmemory: 1Gi\ntimeout: 15m\n"
			p.deploy(t, function)
			event := bytes.Repeat([]byte("0123456789abcdef"), wire.MaxAsyncPayload/16)
			event[0], event[len(event)-1] = '"', '"'
			accepted := p.do(t, http.MethodPost, "/v1/functions/huge-"+name+"/invocations", event, "Prefer: respond-async").want(t, http.StatusAccepted)
			id := accepted.invocation()
			var r wire.Record
			eventually(t, callBound, func() error {
				r = decode[wire.Record](t, p.do(t, http.MethodGet, "/v1/invocations/"+id+"?wait=1m", nil))
				if !r.State.Final() {
					return fmt.Errorf("it is %s", r.State)
				}
				return nil
			})
			if r.State != wire.StateSucceeded || r.Output == nil || r.Output.ResultBytes != wire.MaxAsyncPayload {
				t.Fatalf("record %+v with error %v", r, r.Error)
			}
			for _, a := range r.Attempts {
				t.Logf("attempt %s, ran %s, error %v", a.EndedAt.Sub(a.StartedAt), time.Duration(a.RunMicros)*time.Microsecond, a.Error)
			}
			if result := p.do(t, http.MethodGet, "/v1/invocations/"+id+"/output", nil).want(t, http.StatusOK); !bytes.Equal(result.body, event) {
				t.Errorf("a result of %d bytes is another than the event", len(result.body))
			}
			p.do(t, http.MethodPost, "/v1/functions/huge-"+name+"/invocations", append(event, ' '), "Prefer: respond-async").
				wantProblem(t, http.StatusRequestEntityTooLarge, wire.CodeTooLarge, strconv.Itoa(wire.MaxAsyncPayload))
		})
	}
}
