package invoker

import (
	"context"
	"strings"
	"sync"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// testRoots are the roots of a cluster, which a test may change. The zero value has
// one for every runtime.
type testRoots struct {
	mu      sync.Mutex
	digest  wire.Digest // of all runtimes' roots; guarded by mu
	err     error       // guarded by mu
	changed []func()    // guarded by mu
}

var firstRoot = wire.Digest(strings.Repeat("0", 64))

func (r *testRoots) Current(_ context.Context, rt runtimes.Runtime) (sandbox.Root, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	digest := firstRoot
	if r.digest != "" {
		digest = r.digest
	}
	return sandbox.Root{Name: rt.Root(), Digest: digest}, r.err
}

func (*testRoots) Image(d wire.Digest) sandbox.Root {
	return sandbox.Root{Name: runtimes.ImageName, Digest: d}
}

func (r *testRoots) Watch(_ context.Context, changed func()) (stop func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = append(r.changed, changed)
	return func() {}, nil
}

// move gives all runtimes another root.
func (r *testRoots) move(d wire.Digest) {
	r.mu.Lock()
	r.digest = d
	watchers := r.changed
	r.mu.Unlock()
	for _, changed := range watchers {
		changed()
	}
}
