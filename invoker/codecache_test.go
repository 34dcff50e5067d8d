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
	"time"

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

// A program that is being started may hold a file that was just written, and keep it from
// being run: code is given out only after that.
func TestCodeWaitsForForks(t *testing.T) {
	d, _ := artifact(t, map[string]string{"bootstrap": t.Name()})
	var way line
	dir := t.TempDir()
	c := openCache(t, dir, way.store(t))
	settle, waited := c.written, 0
	c.written = func() {
		waited++
		written, err := filepath.Glob(filepath.Join(dir, "fetch-*", codeFolder, "bootstrap"))
		if err != nil || len(written) != 1 || len(c.list()) > 0 {
			t.Errorf("it waits with %v written, %v given out, %v", written, c.list(), err)
		}
		settle()
	}
	got, _ := hold(t, c, d)
	wantFile(t, got, "bootstrap", t.Name())
	if waited != 1 {
		t.Errorf("it waited %d times", waited)
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

// changes are what may befall an artifact in the cache.
var changes = map[string]func(dir string) error{
	"written":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "app.py"), []byte("#2"), 0o644) },
	"same size": func(dir string) error { return patch(filepath.Join(dir, "app.py"), "?") },
	"cut":       func(dir string) error { return os.Truncate(filepath.Join(dir, "app.py"), 0) },
	"removed":   func(dir string) error { return os.Remove(filepath.Join(dir, "lib/a.py")) },
	"added":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "lib/b.py"), nil, 0o644) },
	"mode":      func(dir string) error { return os.Chmod(filepath.Join(dir, "app.py"), 0o600) },
	"gone":      os.RemoveAll,
}

// patch overwrites the beginning of a file and gives it back its time.
func patch(name, text string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close(), os.Chtimes(name, info.ModTime(), info.ModTime()))
}

// TestChangedCodeIsFetchedAnew: whatever was done to the files since they were
// unpacked, in this run or the one before, the next call gets what is in S3. Who
// holds the changed ones keeps them.
func TestChangedCodeIsFetchedAnew(t *testing.T) {
	for name, change := range changes {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " restart ", restart), func(t *testing.T) {
				d, _ := artifact(t, map[string]string{"app.py": "#1" + t.Name(), "lib/a.py": "#"})
				dir := t.TempDir()
				c := openCache(t, dir, shared.store)
				held, release := hold(t, c, d)
				must(t, change(held))
				if restart {
					release()
					c.close()
					c = openCache(t, dir, shared.store)
				}
				got, second := hold(t, c, d)
				wantFile(t, got, "app.py", "#1"+t.Name())
				wantFile(t, got, "lib/a.py", "#")
				if entries, err := os.ReadDir(filepath.Join(got, "lib")); err != nil || len(entries) != 1 {
					t.Errorf("lib holds %v, %v", entries, err)
				}
				second()
				if !restart {
					release()
				}
				c.close() // waits for what is being removed
				wantOnly(t, dir, d)
			})
		}
	}
}

// TestScrub: of a large artifact a look before each use sees but some files, and
// never what they hold; the background sees all.
func TestScrub(t *testing.T) {
	files := map[string]string{}
	for n := range 3 * sampleItems {
		files[fmt.Sprintf("%03d", n)] = t.Name()
	}
	d, _ := artifact(t, files)
	way := &line{}
	c := openCache(t, t.TempDir(), way.store(t))
	dir, release := hold(t, c, d)
	c.mu.Lock()
	sealed := c.present[d].seal
	c.mu.Unlock()
	if n := len(sealed.Sample); n > sampleItems || n < sampleItems/2 {
		t.Errorf("%d files are looked at before each use", n)
	}
	for _, seen := range sealed.Sample {
		delete(files, seen.Path)
	}
	way.cut() // nothing is fetched
	c.scrub(time.Now())
	c.scrub(time.Now())
	_, again := hold(t, c, d)
	again()
	way.mend()
	for unseen := range files {
		must(t, patch(filepath.Join(dir, unseen), "?"))
		got, again := hold(t, c, d)
		wantFile(t, got, unseen, "?"+t.Name()[1:])
		again()
		c.scrub(time.Now().Add(-time.Hour)) // too soon
		if len(c.list()) != 1 {
			t.Error("verified twice in a short time")
		}
		c.scrub(time.Now())
		if left := c.list(); len(left) != 0 {
			t.Errorf("the cache holds %v", left)
		}
		got, again = hold(t, c, d)
		wantFile(t, got, unseen, t.Name())
		again()
		break
	}
	release()
}

// TestScrubSeesContent: a disk that forgets changes no metadata.
func TestScrubSeesContent(t *testing.T) {
	d, _ := artifact(t, map[string]string{"app.py": t.Name()})
	c := openCache(t, t.TempDir(), shared.store)
	dir, release := hold(t, c, d)
	c.scrub(time.Now())
	must(t, patch(filepath.Join(dir, "app.py"), "?"))
	forged, err := sealOf(dir)
	must(t, err)
	c.mu.Lock()
	c.present[d].seal = forged
	c.mu.Unlock()
	c.scrub(time.Now())
	got, again := hold(t, c, d)
	wantFile(t, got, "app.py", t.Name())
	again()
	release()
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

func TestCacheIsBoundedInBytes(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, shared.store)
	c.mostBytes = 1000
	var digests []wire.Digest
	for n := range 5 {
		d, _ := artifact(t, map[string]string{"n": strings.Repeat(fmt.Sprint(n), 400)})
		_, release := hold(t, c, d)
		release()
		digests = append(digests, d)
	}
	c.loads.Wait()
	wantOnly(t, dir, digests[2:]...) // two of them and the one that came last
	again := openCache(t, dir, shared.store)
	again.mostBytes = 500
	again.shrink("")
	if left := again.list(); len(left) != 1 {
		t.Errorf("after a restart it holds %d", len(left))
	}
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
