package roots_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/wire"
)

var server *s3server.Server

func TestMain(m *testing.M) {
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { server = s }))
}

// cluster is one NATS and one bucket of a test's own, and a folder for a node.
type cluster struct {
	*testing.T
	blobs *blob.Store
	open  func() *roots.Store
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	blobs := embedtest.Store(t, server)
	return cluster{t, blobs, func() *roots.Store {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "roots")
		s, err := roots.Open(t.Context(), conn, blobs, dir, embedtest.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
		})
		return s
	}}
}

// recipe makes a root of some text and counts how often.
func recipe(name, text string, built *atomic.Int32) roots.Recipe {
	return roots.Recipe{
		Name: name, Digest: wire.Digest(strings.Repeat("ab", 32)), Source: wire.SourcePackages,
		Build: func(_ context.Context, path string) error {
			built.Add(1)
			return os.WriteFile(path, []byte(text), 0o600)
		},
	}
}

func (c cluster) read(s *roots.Store, root wire.Root) string {
	c.Helper()
	r, err := s.Open(c.Context(), root)
	if err != nil {
		c.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		c.Fatal(err)
	}
	return string(data)
}

// TestBuiltOnce: what one node built another fetches.
func TestBuiltOnce(t *testing.T) {
	c := newCluster(t)
	var built atomic.Int32
	text := strings.Repeat("the root of a runtime\n", 10_000)
	first, err := c.open().Ensure(t.Context(), recipe("base", text, &built))
	if err != nil {
		t.Fatal(err)
	}
	other := c.open()
	second, err := other.Ensure(t.Context(), recipe("base", text, &built))
	if err != nil {
		t.Fatal(err)
	}
	if built.Load() != 1 || !cmp.Equal(first, second) {
		t.Errorf("built %d times: %+v and %+v", built.Load(), first, second)
	}
	if got := c.read(other, second); got != text {
		t.Errorf("%d bytes came back of %d", len(got), len(text))
	}
	if second.Bytes <= 0 || second.Bytes >= int64(len(text)) {
		t.Errorf("%d bytes stored of %d", second.Bytes, len(text))
	}
}

func TestBuiltByManyAtOnce(t *testing.T) {
	c := newCluster(t)
	var built atomic.Int32
	stores := []*roots.Store{c.open(), c.open()}
	var found [8]wire.Root
	var wait sync.WaitGroup
	for i := range found {
		wait.Go(func() {
			root, err := stores[i%2].Ensure(t.Context(), recipe("base", "same", &built))
			if err != nil {
				t.Error(err)
			}
			found[i] = root
		})
	}
	wait.Wait()
	for _, root := range found[1:] {
		if !cmp.Equal(root, found[0]) {
			t.Errorf("%+v and %+v", found[0], root)
		}
	}
	if n := built.Load(); n != 1 {
		t.Errorf("two processes built %d times", n)
	}
}

// TestBuilderDies: what a process began that died is made by another one.
func TestBuilderDies(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	// It is there already when the store opens it, with a shorter life of its keys.
	claims, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: wire.BucketRootClaims, TTL: time.Second, MaxValueBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s, err := roots.Open(t.Context(), conn, embedtest.Store(t, server), filepath.Join(t.TempDir(), "roots"), embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	var built atomic.Int32
	r := recipe("base", "text", &built)
	key := wire.RootKey(r.Name, runtime.GOARCH, r.Digest)
	if _, err := claims.Create(t.Context(), key, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), r); err != nil || built.Load() != 1 {
		t.Errorf("built %d times, %v", built.Load(), err)
	}
	if _, err := claims.Get(t.Context(), key); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("it is claimed still: %v", err)
	}
}

func TestAnotherRecipeIsAnotherRoot(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	var built atomic.Int32
	older := recipe("base", "older", &built)
	newer := recipe("base", "newer", &built)
	newer.Digest = wire.Digest(strings.Repeat("cd", 32))
	for _, r := range []roots.Recipe{older, newer} {
		if _, err := s.Ensure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	root, err := s.Ensure(t.Context(), older)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.read(s, root); got != "older" || built.Load() != 2 {
		t.Errorf("%q, built %d times", got, built.Load())
	}
}

func TestMissingObjectIsBuiltAnew(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	var built atomic.Int32
	root, err := s.Ensure(t.Context(), recipe("base", "text", &built))
	if err == nil {
		err = c.blobs.Delete(t.Context(), wire.RuntimeKey(root.Digest))
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err = s.Ensure(t.Context(), recipe("base", "text", &built))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.read(s, root); got != "text" || built.Load() != 2 {
		t.Errorf("%q, built %d times", got, built.Load())
	}
}

func TestDamagedObjectIsRefused(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	var built atomic.Int32
	root, err := s.Ensure(t.Context(), recipe("base", "text", &built))
	if err == nil {
		err = c.blobs.PutBytes(t.Context(), wire.RuntimeKey(root.Digest), []byte("something else"), "application/zstd")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), root); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged root: %v", err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	c := newCluster(t)
	s := c.open()
	broken := errors.New("no packages")
	_, err := s.Ensure(t.Context(), roots.Recipe{
		Name: "base", Digest: wire.Digest(strings.Repeat("ab", 32)),
		Build: func(context.Context, string) error { return broken },
	})
	if !errors.Is(err, broken) {
		t.Fatalf("broken build: %v", err)
	}
	var built atomic.Int32
	if _, err := s.Ensure(t.Context(), recipe("base", "text", &built)); err != nil || built.Load() != 1 {
		t.Errorf("after it: %v, built %d times", err, built.Load())
	}
}
