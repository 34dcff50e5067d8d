package node_test

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/docker"
	"github.com/dayfly-run/dayfly/invoker/sandbox/oci"
	"github.com/dayfly-run/dayfly/wire"
)

// cyclesEnv sets how many instances each test makes; see `make leaks`.
const cyclesEnv = "DAYFLY_LEAK_CYCLES"

// collectAt is the memory at which the collector is let work all the same, in bytes.
const collectAt = 2 << 30

// cycles is how many instances to make: as many as were asked for, or fewer, so that
// the test takes well less than a minute.
func cycles(t *testing.T, fewer int) int {
	t.Helper()
	text := os.Getenv(cyclesEnv)
	if text == "" {
		return fewer
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number of cycles", cyclesEnv, text)
	}
	return n
}

func TestLeaksOCI(t *testing.T) {
	testLeaks(t, cycles(t, 100), func(dir, owner string) (sandbox.Sandbox, error) {
		return oci.New(oci.Config{Owner: owner, Dir: dir}, quiet())
	})
}

// TestLeaksDocker makes a fifth of the instances, because each takes a third of a second.
func TestLeaksDocker(t *testing.T) {
	testLeaks(t, max(cycles(t, 100)/5, 1), func(_, owner string) (sandbox.Sandbox, error) {
		return docker.New(owner, quiet())
	})
}

// Functions by what becomes of their instances.
const (
	pythonCode = `import os, time

def handler(event, context):
    if event == "exit":
        os._exit(3)
    if event == "hang":
        time.sleep(60)
    if "sleep" in event:
        time.sleep(event["sleep"])
    if event == "fork":
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                time.sleep(60)
    open(os.path.join(os.environ["DAYFLY_OUTPUT_DIR"], "file"), "w").write("x")
    return event
`
	brokenCode = "import nothing_of_that_name\n"
	// binaryCode is a provided function: it speaks the Runtime API over TCP.
	binaryCode = `#!/usr/bin/python3
import http.client, os
while True:
    c = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    c.request("GET", "/2018-06-01/runtime/invocation/next")
    r = c.getresponse()
    event, id = r.read(), r.headers["Lambda-Runtime-Aws-Request-Id"]
    c.request("POST", "/2018-06-01/runtime/invocation/" + id + "/response", event)
    c.getresponse().read()
`
)

// life is one way in which an instance comes and goes.
type life struct {
	version wire.VersionID
	event   string
	code    wire.Code // of the failure, or empty
}

func lives(t *testing.T) []life {
	t.Helper()
	hour := 30 * time.Second
	one := deploy(t, functions.RuntimePython, functions.NetworkNone, "app.py", pythonCode, hour)
	two := deploy(t, functions.RuntimePython, functions.NetworkNone, "app.py", pythonCode+"# two\n", hour)
	binary := deploy(t, functions.RuntimeProvided, functions.NetworkNone, "bootstrap", binaryCode, hour)
	linked := deploy(t, functions.RuntimePython, functions.NetworkEgress, "app.py", pythonCode, hour)
	quick := deploy(t, functions.RuntimePython, functions.NetworkNone, "app.py", pythonCode, 50*time.Millisecond)
	broken := deploy(t, functions.RuntimePython, functions.NetworkNone, "app.py", brokenCode, hour)
	// Each one that answers is ended by the next, which needs its place.
	return []life{
		{one, `"echo"`, ""},
		{two, `"fork"`, ""},
		{binary, `"echo"`, ""},
		{linked, `"echo"`, ""},
		{one, `"exit"`, wire.CodeFunctionExited},
		{binary, `"again"`, ""},
		{two, `"echo"`, ""},
		{quick, `"hang"`, wire.CodeFunctionTimeout},
		{broken, `"echo"`, wire.CodeFunctionError},
		{linked, `"fork"`, ""},
	}
}

// testLeaks gives a node so many instances, one after the other, and counts before
// and after.
func testLeaks(t *testing.T, cycles int, open func(dir, owner string) (sandbox.Sandbox, error)) {
	// Without the collector, which would close forgotten files in its own time.
	t.Cleanup(func() { debug.SetGCPercent(100) })
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(collectAt)
	n := startNode(t, room(1), open) // each instance makes way for the next
	all := lives(t)
	live := func(i int) {
		l := all[i%len(all)]
		result, failure := n.call(l.version, l.event)
		switch {
		case failure == nil && l.code == "" && result == l.event:
		case failure == nil || failure.Code != l.code:
			t.Fatalf("cycle %d: %s was answered with %q, %v", i, l.event, result, failure)
		}
	}
	for i := range 2 * len(all) { // pools fill, networks are made, connections are opened
		live(i)
	}
	before := n.settled()
	begun := time.Now()
	for i := range cycles {
		live(i)
	}
	// The last one is of the same kind as before.
	for i := cycles; i%len(all) != 0; i++ {
		live(i)
	}
	took := time.Since(begun)
	var after census
	poll(t, func() []string {
		after = n.take()
		return after.more(before)
	})
	t.Logf("%d cycles in %s; before %v, after %v", cycles, took.Round(time.Millisecond), before, after)
	n.stop()
	if left := n.take(); left["processes"] > 0 || left["cgroups"] > 0 || left["containers of the engine"] > 0 ||
		left["links"] > 0 || left["firewall rules"] > 0 || left["mounts"] > 0 {
		t.Errorf("after the node's stop there are %v", left)
	}
}

// settled takes the census once it stays the same for a while: stems are being made in
// the background.
func (n *node) settled() (last census) {
	n.t.Helper()
	poll(n.t, func() []string {
		now := n.take()
		changed := append(now.more(last), last.more(now)...)
		last = now
		return changed
	})
	return last
}

// poll calls look until it finds nothing, several times in a row, and fails with what
// it found when that takes too long.
func poll(t *testing.T, look func() []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // also in a cleanup
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for quiet := 0; quiet < 10; {
		found := look()
		if quiet++; len(found) > 0 {
			quiet = 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("for %s there is too much: %s", patience, fmt.Sprint(strings.Join(found, "; ")))
		}
	}
}
