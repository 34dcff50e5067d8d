package invoker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

func openCache(t *testing.T, dir string, store *blob.Store) *codeCache {
	t.Helper()
	c, err := openCodeCache(dir, store, quiet())
	must(t, err)
	t.Cleanup(c.close)
	return c
}

func hold(t *testing.T, c *codeCache, d wire.Digest) (dir string, release func()) {
	t.Helper()
	dir, release, err := c.hold(t.Context(), d)
	must(t, err)
	return dir, release
}

func wantFile(t *testing.T, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || string(got) != want {
		t.Fatalf("%s: %q, %v; want %q", name, got, err, want)
	}
}

func wantCode(t *testing.T, err error, code wire.Code, words string) {
	t.Helper()
	if !wire.HasCode(err, code) || !strings.Contains(err.Error(), words) {
		t.Fatalf("error %v; want %s with %q", err, code, words)
	}
}

// wantOnly checks that nothing half made is in a cache's folder.
func wantOnly(t *testing.T, dir string, digests ...wire.Digest) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names, want []string
	for _, e := range entries {
		if e.Name() != bootFile {
			names = append(names, e.Name())
		}
	}
	for _, d := range digests {
		want = append(want, string(d))
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Fatalf("the cache's folder holds %v, want %v", names, want)
	}
}

func TestCodeIsFetchedOnce(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	var gets atomic.Int32
	var way line
	way.onSend(func(sent []byte) {
		if bytes.HasPrefix(sent, []byte("GET /dayfly/"+wire.CodeKey(d))) {
			gets.Add(1)
		}
	})
	dir := t.TempDir()
	c := openCache(t, dir, way.store(t))
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			got, release, err := c.hold(t.Context(), d)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			wantFile(t, got, "app.py", t.Name())
		})
	}
	calls.Wait()
	if n := gets.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	// From now on it needs no S3, in this run and the next.
	way.cut()
	hold(t, c, d)
	again := openCache(t, dir, way.store(t))
	got, _ := hold(t, again, d)
	wantFile(t, got, "app.py", t.Name())
	if list := again.list(); !slices.Equal(list, []wire.Digest{d}) {
		t.Errorf("lists %v", list)
	}
	info, err := os.Stat(got)
	must(t, err)
	if info.Mode().Perm() != 0o755 {
		t.Errorf("the function's user cannot enter: %s", info.Mode())
	}
}

func TestCodeThatCannotBeUsed(t *testing.T) {
	good, packed := artifact(t, map[string]string{"app.py": t.Name()})
	put := func(d wire.Digest, data []byte) wire.Digest {
		must(t, shared.store.PutBytes(t.Context(), wire.CodeKey(d), data, "application/gzip"))
		return d
	}
	digest := func(c string) wire.Digest { return wire.Digest(strings.Repeat(c, 64)) }
	dir := t.TempDir()
	c := openCache(t, dir, shared.store)
	for name, test := range map[string]struct {
		digest wire.Digest
		words  string
	}{
		"missing":         {digest("0"), "missing in S3"},
		"another's bytes": {put(digest("1"), packed), "damaged in S3"},
		"truncated":       {put(digest("2"), packed[:len(packed)/2]), "damaged in S3"},
		"not an archive":  {put(digest("3"), []byte("hello")), "damaged in S3"},
		"with a tail":     {put(digest("4"), append(slices.Clone(packed), 0)), "damaged in S3"},
		"nearly empty":    {put(digest("5"), packed[:1]), "damaged in S3"},
	} {
		_, _, err := c.hold(t.Context(), test.digest)
		wantCode(t, err, wire.CodeInternal, test.words)
		if wire.AsError(err).Retryable {
			t.Errorf("%s: retryable, but every node would fail", name)
		}
	}
	wantOnly(t, dir)
	hold(t, c, good)
	wantOnly(t, dir, good)
}

func TestCodeWithoutS3(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	var way line
	way.cut()
	dir := t.TempDir()
	c := openCache(t, dir, way.store(t))
	_, _, err := c.hold(t.Context(), d)
	wantCode(t, err, wire.CodeUnavailable, "could not be fetched")
	if !wire.AsError(err).Retryable {
		t.Error("nothing ran: another node may do it")
	}
	wantOnly(t, dir)
	way.mend()
	hold(t, c, d)
}

func TestLeftoversAreRemoved(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	dir := t.TempDir()
	hold(t, openCache(t, dir, shared.store), d)
	for _, name := range []string{"fetch-123/app.py", "gone-" + string(d) + "/x", "whatever"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	openCache(t, dir, shared.store)
	wantOnly(t, dir, d)
}

// After a crash of the machine a folder may lack its files' content.
func TestCacheOfAnotherBootIsNotTrusted(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	dir := t.TempDir()
	hold(t, openCache(t, dir, shared.store), d)
	must(t, os.WriteFile(filepath.Join(dir, bootFile), []byte("another"), 0o600))
	c := openCache(t, dir, shared.store)
	wantOnly(t, dir)
	got, _ := hold(t, c, d)
	wantFile(t, got, "app.py", t.Name())
}

func TestCacheThatVanished(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	dir := filepath.Join(t.TempDir(), "code")
	c := openCache(t, dir, shared.store)
	_, release := hold(t, c, d)
	must(t, os.RemoveAll(dir))
	got, again := hold(t, c, d)
	wantFile(t, got, "app.py", t.Name())
	release()
	again()
}

func TestOneCallerGivesUp(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	var way line
	sent, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	way.onSend(func([]byte) {
		once.Do(func() {
			close(sent)
			<-proceed
		})
	})
	c := openCache(t, t.TempDir(), way.store(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, _, err := c.hold(ctx, d)
		first <- err
	}()
	<-sent
	go func() {
		_, _, err := c.hold(t.Context(), d)
		second <- err
	}()
	cause := errors.New("caller gave up")
	cancel(cause)
	if err := <-first; !errors.Is(err, cause) {
		t.Errorf("the first caller got %v", err)
	}
	close(proceed)
	must(t, <-second)
}

func TestCloseEndsFetches(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	var way line
	sent, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	way.onSend(func([]byte) {
		once.Do(func() {
			close(sent)
			<-proceed
		})
	})
	dir := t.TempDir()
	c, err := openCodeCache(dir, way.store(t), quiet())
	must(t, err)
	ended := make(chan error, 1)
	go func() {
		_, _, err := c.hold(t.Context(), d)
		ended <- err
	}()
	<-sent
	c.cancel(errStopped)
	close(proceed)
	c.close()
	wantCode(t, <-ended, wire.CodeUnavailable, "could not be fetched")
	wantOnly(t, dir)
}

func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, shared.store)
	c.most = 3
	var digests []wire.Digest
	var releases []func()
	for n := range 8 {
		d, _ := artifact(t, map[string]string{"n": fmt.Sprint(t.Name(), n)})
		_, release := hold(t, c, d)
		digests, releases = append(digests, d), append(releases, release)
	}
	c.loads.Wait()
	wantOnly(t, dir, digests...) // an instance runs on each
	for _, n := range []int{3, 1, 0, 2, 7, 6, 5, 4} {
		releases[n]()
	}
	c.shrink("")
	wantOnly(t, dir, digests[6], digests[5], digests[4]) // the last that were used
	hold(t, c, digests[0])
}

// tiny mounts a file system of a megabyte.
func tiny(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func TestDiskIsFull(t *testing.T) {
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		return string(b)
	}
	small, _ := artifact(t, map[string]string{"a": noise(300 << 10)})
	middle, _ := artifact(t, map[string]string{"b": noise(800 << 10)})
	large, _ := artifact(t, map[string]string{"c": noise(2 << 20)})
	dir := tiny(t)
	c := openCache(t, dir, shared.store)
	_, release := hold(t, c, small)
	_, _, err := c.hold(t.Context(), large)
	wantCode(t, err, wire.CodeUnavailable, "no space left")
	wantOnly(t, dir, small) // in use: it stays
	release()
	_, _, err = c.hold(t.Context(), middle)
	wantCode(t, err, wire.CodeUnavailable, "no space left")
	wantOnly(t, dir)
	hold(t, c, middle) // the failure made room for the next try
	wantOnly(t, dir, middle)
}
