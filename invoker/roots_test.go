package invoker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
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

// cacheOf makes a cache over a fake sandbox, whose fetches end with the test.
func cacheOf(t *testing.T, roots *testRoots) (*rootCache, *countingSandbox) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &countingSandbox{Sandbox: fake.New(t.Name(), fake.Knobs{})}
	c := newRootCache(ctx, s, roots, quiet())
	t.Cleanup(func() {
		cancel()
		c.loads.Wait()
	})
	must(t, c.open(t.Context()))
	return c, s
}

// countingSandbox counts the roots that were fetched, and may refuse.
type countingSandbox struct {
	*fake.Sandbox
	mu      sync.Mutex
	fetched map[wire.Digest]int // guarded by mu
	refuse  error               // guarded by mu
	hold    chan struct{}       // fetches wait for it, unless it is nil
}

func (s *countingSandbox) EnsureRoot(ctx context.Context, root sandbox.Root) error {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	if s.fetched == nil {
		s.fetched = map[wire.Digest]int{}
	}
	s.fetched[root.Digest]++
	err := s.refuse
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.Sandbox.EnsureRoot(ctx, root)
}

func (s *countingSandbox) count(d wire.Digest) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched[d]
}

func imageDigest(n int) wire.Digest { return wire.Digest(fmt.Sprintf("%064x", n+1000)) }

// TestImageFetchedOnce: many that need an image at once fetch it once.
func TestImageFetchedOnce(t *testing.T) {
	c, s := cacheOf(t, &testRoots{})
	s.hold = make(chan struct{})
	rt := runtimes.Image(imageDigest(1))
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			root, release, err := c.hold(t.Context(), rt)
			if err != nil || root.Digest != imageDigest(1) {
				t.Errorf("held %+v, %v", root, err)
				return
			}
			release()
		})
	}
	// One gives up; the others get it.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.hold(ctx, rt); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	close(s.hold)
	wait.Wait()
	if n := s.count(imageDigest(1)); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if got := c.images(); !slices.Equal(got, []wire.Digest{imageDigest(1)}) {
		t.Errorf("there are %v", got)
	}
	c.lost(sandbox.Root{Name: runtimes.ImageName, Digest: imageDigest(1)})
	_, release, err := c.hold(t.Context(), rt)
	must(t, err)
	release()
	if n := s.count(imageDigest(1)); n != 2 {
		t.Errorf("after it was lost it was fetched %d times in all", n)
	}
}

// TestImageThatCannotBeFetched: the next one tries again, and nothing stays of it.
func TestImageThatCannotBeFetched(t *testing.T) {
	c, s := cacheOf(t, &testRoots{})
	broken := errors.New("S3 is gone")
	s.mu.Lock()
	s.refuse = broken
	s.mu.Unlock()
	if _, _, err := c.hold(t.Context(), runtimes.Image(imageDigest(1))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	c.mu.Lock()
	known := len(c.roots)
	c.mu.Unlock()
	if known != len(withRoots()) {
		t.Errorf("%d roots are known", known)
	}
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	_, release, err := c.hold(t.Context(), runtimes.Image(imageDigest(1)))
	must(t, err)
	release()
}

// TestImagesMakeRoom: what nobody uses goes, the least recently used first; what is in
// use, and the runtimes' own, stay.
func TestImagesMakeRoom(t *testing.T) {
	c, s := cacheOf(t, &testRoots{})
	_, keep, err := c.hold(t.Context(), runtimes.Image(imageDigest(0)))
	must(t, err)
	const more = 5
	for n := 1; n <= maxSpareRoots+more; n++ {
		_, release, err := c.hold(t.Context(), runtimes.Image(imageDigest(n)))
		must(t, err)
		release()
	}
	c.loads.Wait()
	c.shrink()
	there, err := s.Roots(t.Context())
	must(t, err)
	has := func(d wire.Digest) bool {
		return slices.ContainsFunc(there, func(r sandbox.StoredRoot) bool { return r.Digest == d })
	}
	if !has(imageDigest(0)) || !has(firstRoot) {
		t.Error("a root that is used was removed")
	}
	for n := 1; n <= maxSpareRoots+more; n++ {
		if has(imageDigest(n)) != (n > more) {
			t.Errorf("image %d is there: %t", n, has(imageDigest(n)))
		}
	}
	keep()
}

// TestRootsOfAnEarlierRun are known, and count.
func TestRootsOfAnEarlierRun(t *testing.T) {
	s := &countingSandbox{Sandbox: fake.New(t.Name(), fake.Knobs{})}
	must(t, s.EnsureRoot(t.Context(), sandbox.Root{Name: runtimes.ImageName, Digest: imageDigest(1)}))
	c := newRootCache(t.Context(), s, &testRoots{}, quiet())
	must(t, c.open(t.Context()))
	_, release, err := c.hold(t.Context(), runtimes.Image(imageDigest(1)))
	must(t, err)
	release()
	if n := s.count(imageDigest(1)); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// TestNewRootComesIntoUse: stems are replaced by ones on the new root, once one of them
// has started; a root on which none starts is not used.
func TestNewRootComesIntoUse(t *testing.T) {
	roots := &testRoots{}
	n := startNode(t, each(echo), stemming(1, 2, 1<<30), func(_ *Config, d *Deps) { d.Roots = roots })
	const kinds = 3
	onRoot := func(d wire.Digest) func() bool {
		return func() bool {
			n.inv.stems.mu.Lock()
			defer n.inv.stems.mu.Unlock()
			for _, p := range n.inv.stems.pools {
				for range len(p.ready) {
					in := <-p.ready
					p.ready <- in
					if in.root.Digest != d {
						return false
					}
				}
				if len(p.ready) == 0 {
					return false
				}
			}
			return len(n.inv.stems.pools) == kinds
		}
	}
	embedtest.Eventually(t, "stems on the first root", onRoot(firstRoot))
	second := wire.Digest(strings.Repeat("2", 64))
	roots.move(second)
	embedtest.Eventually(t, "stems on the second root", onRoot(second))

	n.sandbox.Set(func(k *fake.Knobs) { k.StartError = errors.New("there is no shell") })
	third := wire.Digest(strings.Repeat("3", 64))
	roots.move(third)
	embedtest.Eventually(t, "the third root's trial", func() bool { return n.inv.roots.knows(third) && len(n.inv.roots.changes) == 0 })
	if rt := withRoots()[0]; n.inv.roots.of(rt).Digest != second || !onRoot(second)() {
		t.Errorf("a root on which nothing starts is used: %+v", n.inv.roots.of(rt))
	}
}

// knows reports whether a root was made ready.
func (c *rootCache) knows(d wire.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, held := range c.roots {
		if id.digest == d && held.ready {
			return true
		}
	}
	return false
}

// TestImageEnvironment: the image's settings go before the stem's, the platform's own
// before the image's, and the function's before all.
func TestImageEnvironment(t *testing.T) {
	in := &instance{id: "i1", launch: &launch{node: "n1"}}
	in.version.Image = &wire.Image{Env: []string{
		"PATH=/image", "HOME=/image", "DAYFLY_NODE=forged", "AWS_LAMBDA_RUNTIME_API=forged", "LAMBDA_TASK_ROOT=/app", "A=image", "B=image", "EMPTY=",
	}}
	in.version.Name, in.version.Spec.Env = "f", map[string]string{"B": "function"}
	got := in.imageEnvironment(in.environment())
	for _, want := range []string{
		"PATH=/image", "HOME=/image", "DAYFLY_NODE=n1", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "LAMBDA_TASK_ROOT=/app",
		"A=image", "B=function", "EMPTY=", "LANG=C.UTF-8", "AWS_LAMBDA_FUNCTION_NAME=f", "DAYFLY_INSTANCE=i1",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
	names := map[string]bool{}
	for _, v := range got {
		name, _, _ := strings.Cut(v, "=")
		if names[name] || name == "_HANDLER" {
			t.Errorf("%s stands twice, or without a value", name)
		}
		names[name] = true
	}
}

// TestImagesThatCannotRunHere are refused so that another node is asked.
func TestImagesThatCannotRunHere(t *testing.T) {
	image := functions.Version{Spec: functions.Spec{Runtime: functions.RuntimeImage}, Artifact: functions.Artifact{Image: &wire.Image{Arch: runtime.GOARCH}}}
	foreign, broken := image, image
	foreign.Image = &wire.Image{Arch: "s390x"}
	broken.Image = nil
	able, unable := &Invoker{stems: &stems{launch: &launch{imageDir: "/x"}}}, &Invoker{stems: &stems{launch: &launch{}}}
	for name, test := range map[string]struct {
		inv  *Invoker
		v    functions.Version
		want wire.Code // empty: it is fine
	}{
		"fine":           {able, image, ""},
		"no image":       {unable, functions.Version{Spec: functions.Spec{Runtime: "python"}}, ""},
		"other machine":  {able, foreign, wire.CodeNoCapacity},
		"no program":     {unable, image, wire.CodeNoCapacity},
		"lost its image": {able, broken, wire.CodeInternal},
	} {
		if err := test.inv.checkImage(test.v); test.want == "" && err != nil || test.want != "" && !wire.HasCode(err, test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}
