package invoker

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

// What goes wrong around a cold call: the caller gets a clear error or does not
// notice, nothing is left of the try, and the node works on.

// wellAfter checks that the node works and has nothing but one idle instance.
func (n *node) wellAfter() {
	n.tb.Helper()
	v := n.deploy()
	n.wantBody(n.cold(v, `"well"`), `"well"`)
	want := wire.Resources{MemoryBytes: 128 * mib, CPUMillis: 100, Instances: 1}
	n.await("rid of the tries", func(s wire.NodeState) bool { return s.Reserved == want && len(s.Versions) == 1 })
	if live := n.sandbox.Live(); live != 1 {
		n.tb.Errorf("%d containers live", live)
	}
}

// deployDigest registers a function whose code is what S3 has under a digest, if
// anything.
func (n *node) deployDigest(d wire.Digest) wire.VersionID {
	n.tb.Helper()
	v := n.deploy()
	stored, err := n.registry.Version(n.tb.Context(), v)
	must(n.tb, err)
	deployed, err := n.registry.Deploy(n.tb.Context(), v.FunctionID, stored.Spec, functions.Artifact{Code: d, CodeBytes: 1}, time.Now())
	must(n.tb, err)
	return deployed.Version.VersionID
}

func TestCodeIsMissing(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deployDigest(wire.Digest(strings.Repeat("6", 64)))
	for range 3 {
		n.wantError(n.cold(v, `1`), wire.CodeInternal, false, "missing in S3; deploy the function again")
	}
	n.wellAfter()
}

func TestCodeIsAnothers(t *testing.T) {
	n := startNode(t, each(echo))
	_, packed := artifact(t, map[string]string{"bootstrap": t.Name()})
	d := wire.Digest(strings.Repeat("7", 64))
	must(t, shared.store.PutBytes(t.Context(), wire.CodeKey(d), packed, "application/gzip"))
	v := n.deployDigest(d)
	for range 3 {
		n.wantError(n.cold(v, `1`), wire.CodeInternal, false, "damaged in S3")
	}
	n.wellAfter()
}

// TestNodeDiskIsFull: what does not fit is for another node, what fits still runs.
func TestNodeDiskIsFull(t *testing.T) {
	dir := tiny(t)
	n := startNode(t, each(echo), func(c *Config, _ *Deps) { c.DataDir = dir })
	large := make([]string, 0, 2)
	for i := range 2 {
		large = append(large, strings.Repeat(fmt.Sprint(i), 2<<20))
	}
	for _, text := range large {
		v := n.deployCode(text)
		n.wantError(n.cold(v, `1`), wire.CodeUnavailable, true, "no space left")
	}
	n.wellAfter()
	left, err := filepath.Glob(filepath.Join(dir, "code", "fetch-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("half unpacked is %v, %v", left, err)
	}
}

// TestTooLittleMemory: a runtime that alone takes more than the function may have.
func TestTooLittleMemory(t *testing.T) {
	n := startNode(t, each(echo))
	n.sandbox.Set(func(k *fake.Knobs) {
		k.Limit = func(_ fake.Process, l sandbox.Limits) error {
			if l.MemoryBytes < 128*mib {
				return fmt.Errorf("set memory limit: %w", sandbox.ErrOverLimit)
			}
			return nil
		}
	})
	v := n.deploy(memory(32 * mib))
	for range 3 {
		n.wantError(n.cold(v, `1`), wire.CodeFunctionOutOfMemory, false, "32 MiB of memory; raise memory in dayfly.yaml")
	}
	n.wellAfter()
}

// TestStemDiesWhenClaimed: the call gets another one and does not notice.
func TestStemDiesWhenClaimed(t *testing.T) {
	n := startNode(t, each(echo), stemming(1, 1, 1<<30))
	var doomed atomic.Int32
	n.sandbox.Set(func(k *fake.Knobs) {
		k.Limit = func(p fake.Process, _ sandbox.Limits) error {
			if doomed.Add(-1) >= 0 {
				p.End()
			}
			return nil
		}
	})
	// Those that were made before the knob was turned know nothing of it.
	n.wantBody(n.cold(n.deploy(), `0`), `0`)
	for dead := range int32(deliveries) {
		doomed.Store(dead)
		n.wantBody(n.cold(n.deploy(), `1`), `1`)
	}
	doomed.Store(deliveries)
	a := n.cold(n.deploy(), `1`)
	if a.Error == nil || a.Error.Code.OfFunction() {
		t.Errorf("every container died, and the answer is %s, %v", a.body, a.Error)
	}
	n.wantBody(n.cold(n.deploy(), `2`), `2`)
}

// TestKilledFromOutside: an engine that is stopped takes the instances with it. That
// is no failure of the function, and as it may have run, it is not run again.
func TestKilledFromOutside(t *testing.T) {
	running := make(chan fake.Process, 1)
	n := startNode(t, each(func(p *process, _ string, event []byte) ([]byte, error) {
		if string(event) == `"wait"` {
			running <- p.Process
			<-p.ctx.Done()
			return nil, context.Cause(p.ctx)
		}
		return event, nil
	}))
	v := n.deploy()
	call := n.background(v, `"wait"`)
	p := <-running
	p.End()
	n.wantError(<-call, wire.CodeUnavailable, false, "killed from outside")
	n.wellAfter()
}
