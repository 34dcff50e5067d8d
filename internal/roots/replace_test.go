package roots_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/wire"
)

// exists says whether the object of a root is in S3.
func (c cluster) exists(d wire.Digest) bool {
	c.Helper()
	there, err := c.blobs.Exists(c.Context(), wire.RuntimeKey(d))
	if err != nil {
		c.Fatal(err)
	}
	return there
}

func (c cluster) must(root wire.Root, err error) wire.Root {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
	return root
}

// TestRebuild: the index moves to the new root, and the old one goes after a while.
func TestRebuild(t *testing.T) {
	c := newCluster(t)
	s, other := c.open(), c.open()
	var built atomic.Int32
	first := c.must(s.Ensure(t.Context(), recipe("base", "first", &built)))
	changes := make(chan struct{}, 8)
	stop, err := other.Watch(t.Context(), func() { changes <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	second := c.must(s.Rebuild(t.Context(), recipe("base", "second", &built)))
	<-changes
	current := c.must(other.Ensure(t.Context(), recipe("base", "unused", &built)))
	if !cmp.Equal(current, second) || c.read(other, current) != "second" || built.Load() != 2 {
		t.Errorf("after a rebuild there is %+v, want %+v; built %d times", current, second, built.Load())
	}
	if first.ID() != first.Recipe || second.ID() != second.Digest || second.Revision != 2 {
		t.Errorf("revision %d is %s on nodes, then %d is %s", first.Revision, first.ID(), second.Revision, second.ID())
	}
	if len(second.Replaced) != 1 || second.Replaced[0].Digest != first.Digest {
		t.Errorf("replaced %+v, want %s", second.Replaced, first.Digest)
	}

	if n, err := s.Collect(t.Context(), time.Now().Add(roots.Grace-time.Minute)); err != nil || n != 0 || !c.exists(first.Digest) {
		t.Errorf("within the grace %d objects were removed, %v", n, err)
	}
	late := time.Now().Add(roots.Grace + time.Minute)
	if n, err := s.Collect(t.Context(), late); err != nil || n != 1 || c.exists(first.Digest) || !c.exists(second.Digest) {
		t.Errorf("after the grace %d objects were removed, %v", n, err)
	}
	if n, err := s.Collect(t.Context(), late); err != nil || n != 0 {
		t.Errorf("the second time %d objects were removed, %v", n, err)
	}
	list, err := other.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Digest != second.Digest || len(list[0].Replaced) != 0 {
		t.Errorf("in the end there is %+v, %v", list, err)
	}
}

// TestRebuildOfNothing: a node that has the recipe's root from elsewhere must see that
// the new one is another.
func TestRebuildOfNothing(t *testing.T) {
	c := newCluster(t)
	var built atomic.Int32
	if root := c.must(c.open().Rebuild(t.Context(), recipe("base", "first", &built))); root.ID() != root.Digest || len(root.Replaced) != 0 {
		t.Errorf("the root is %+v, on nodes %s", root, root.ID())
	}
}

// TestRebuildTheSame: a root that comes back is not removed with what it was.
func TestRebuildTheSame(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	var built atomic.Int32
	c.must(s.Rebuild(t.Context(), recipe("base", "first", &built)))
	c.must(s.Rebuild(t.Context(), recipe("base", "second", &built)))
	again := c.must(s.Rebuild(t.Context(), recipe("base", "first", &built)))
	if len(again.Replaced) != 1 || again.Replaced[0].Digest == again.Digest {
		t.Errorf("replaced %+v", again.Replaced)
	}
	if n, err := s.Collect(t.Context(), time.Now().Add(2*roots.Grace)); err != nil || n != 1 || !c.exists(again.Digest) {
		t.Errorf("%d objects were removed, %v", n, err)
	}
}

// TestRootOfTwoNamesStays: an object that another root has become is not removed.
func TestRootOfTwoNamesStays(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	var built atomic.Int32
	shared := c.must(s.Ensure(t.Context(), recipe("base", "same", &built)))
	c.must(s.Ensure(t.Context(), recipe("node", "same", &built)))
	c.must(s.Rebuild(t.Context(), recipe("base", "other", &built)))
	if n, err := s.Collect(t.Context(), time.Now().Add(2*roots.Grace)); err != nil || n != 0 || !c.exists(shared.Digest) {
		t.Errorf("%d objects were removed, %v", n, err)
	}
}

func TestFailedRebuildChangesNothing(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	var built atomic.Int32
	first := c.must(s.Ensure(t.Context(), recipe("base", "first", &built)))
	broken := errors.New("no packages")
	failing := recipe("base", "", &built)
	failing.Build = func(context.Context, string) error { return broken }
	if _, err := s.Rebuild(t.Context(), failing); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if now := c.must(s.Ensure(t.Context(), recipe("base", "x", &built))); !cmp.Equal(now, first) {
		t.Errorf("there is %+v, want %+v", now, first)
	}
}

func TestList(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("at first there is %v, %v", list, err)
	}
	var built atomic.Int32
	older := c.must(s.Ensure(t.Context(), recipe("python", "older", &built)))
	next := recipe("python", "newer", &built)
	next.Digest = wire.Digest(strings.Repeat("cd", 32))
	newer := c.must(s.Ensure(t.Context(), next))
	base := c.must(s.Ensure(t.Context(), recipe("base", "base", &built)))
	list, err := c.open().List(t.Context())
	if diff := cmp.Diff([]wire.Root{base, newer, older}, list); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestImages(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	write := func(_ context.Context, path string) error { return os.WriteFile(path, []byte("an image"), 0o600) }
	d, size, err := s.PutImage(t.Context(), write)
	again, _, err2 := c.open().PutImage(t.Context(), write)
	if err = errors.Join(err, err2); err != nil || again != d || size <= 0 {
		t.Fatalf("%s and %s of %d bytes, %v", d, again, size, err)
	}
	r, err := c.open().OpenImage(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || string(data) != "an image" {
		t.Errorf("%q came back, %v", data, err)
	}
	if err := c.blobs.PutBytes(t.Context(), wire.ImageKey(d), []byte("something else"), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenImage(t.Context(), d); !wire.HasCode(err, wire.CodeInternal) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged image: %v", err)
	}
	if err := c.blobs.Delete(t.Context(), wire.ImageKey(d)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenImage(t.Context(), d); !wire.HasCode(err, wire.CodeInternal) || !strings.Contains(err.Error(), "deploy the function again") {
		t.Errorf("a missing image: %v", err)
	}
}
