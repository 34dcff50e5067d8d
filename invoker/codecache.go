package invoker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxCodes and maxCodeBytes bound the artifacts in the cache that no instance
	// uses. A node names all it has in each heartbeat.
	maxCodes     = 256
	maxCodeBytes = 8 << 30
	// minFreePercent of the file system are kept free of artifacts that nobody uses.
	minFreePercent = 5
	// fetchBound limits fetching and unpacking one artifact.
	fetchBound = 2 * time.Minute
	// holdAttempts bounds how often an artifact may vanish right after its fetch.
	holdAttempts = 4
	// scrubEvery is how often one artifact is verified whole, each not again before
	// scrubAgain has passed.
	scrubEvery = time.Minute
	scrubAgain = time.Hour

	bootFile = "boot"
	bootID   = "/proc/sys/kernel/random/boot_id"
	// Below a digest's folder: the artifact, and its seal beside it.
	codeFolder, sealFile = "files", "seal"
)

// codeCache holds unpacked artifacts by digest. It is only a cache: it may vanish
// at any time, and what was changed in it is fetched anew. Safe for concurrent use.
type codeCache struct {
	dir   string
	store *blob.Store
	log   *slog.Logger
	// most and mostBytes are [maxCodes] and [maxCodeBytes], but for tests.
	most      int
	mostBytes int64
	written   func()             // [awaitForks], but for tests
	flight    singleflight.Group // fetching and removing, by digest
	ctx       context.Context    // of fetches, which no single caller owns
	cancel    context.CancelCauseFunc
	loads     sync.WaitGroup // fetches and removals
	scrubs    sync.WaitGroup

	mu      sync.Mutex
	present map[wire.Digest]*code // guarded by mu
}

// code is one artifact on disk.
type code struct {
	seal seal

	// Guarded by the cache's mu.
	holders int
	used    time.Time // last held or released
	// aside is where the files are after they were found to be changed, for those who
	// hold them still.
	aside string
	// content is of when it was first verified whole, scrubbed when it was so last.
	content  [sha256.Size]byte
	scrubbed time.Time
}

// openCodeCache takes over what an earlier run left whole and removes the rest.
// close ends it.
func openCodeCache(dir string, store *blob.Store, log *slog.Logger) (*codeCache, error) {
	c := &codeCache{
		dir: dir, store: store, log: log, most: maxCodes, mostBytes: maxCodeBytes, written: awaitForks,
		present: map[wire.Digest]*code{},
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("code cache: %w", err)
	}
	trusted, err := sameBoot(dir)
	if err != nil {
		return nil, fmt.Errorf("code cache: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("code cache: %w", err)
	}
	for _, e := range entries {
		if e.Name() == bootFile {
			continue
		}
		d := wire.Digest(e.Name())
		if d.Valid() && trusted {
			if s, err := readSeal(filepath.Join(dir, e.Name(), sealFile)); err == nil {
				c.present[d] = &code{seal: s} // as if never used
				continue
			}
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("code cache: %w", err)
		}
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.scrubs.Go(c.scrubLoop)
	return c, nil
}

// sameBoot reports whether the cache was filled since the machine started, and
// notes that it is from now on. Nothing here is synced to disk, so after a crash of
// the machine a folder may be there without its files' content.
func sameBoot(dir string) (bool, error) {
	now, err := os.ReadFile(bootID)
	if err != nil {
		return false, err
	}
	name := filepath.Join(dir, bootFile)
	then, err := os.ReadFile(name)
	if err == nil && bytes.Equal(then, now) {
		return true, nil
	}
	if err := os.RemoveAll(name); err != nil {
		return false, err
	}
	return false, os.WriteFile(name, now, 0o600)
}

// close ends fetches that are under way and waits for them.
func (c *codeCache) close() {
	c.cancel(errStopped)
	c.scrubs.Wait() // it may leave something to remove
	c.loads.Wait()
}

// list returns what is in the cache, in order.
func (c *codeCache) list() []wire.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	digests := make([]wire.Digest, 0, len(c.present))
	for d := range c.present {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	return digests
}

// hold returns the folder with an artifact's files, fetching it when it is not
// there, and keeps it there until release is called, once. Any number of calls
// fetch it once; the fetch goes on for the others when one caller gives up.
func (c *codeCache) hold(ctx context.Context, d wire.Digest) (dir string, release func(), err error) {
	for range holdAttempts {
		if dir, release, ok := c.take(d); ok {
			return dir, release, nil
		}
		fetched := make(chan error, 1)
		c.loads.Go(func() {
			_, err, _ := c.flight.Do(string(d), func() (any, error) { return nil, c.load(d) })
			fetched <- err
			c.shrink(d) // outside of the flight: it may wait for others
		})
		select {
		case err := <-fetched:
			if err != nil {
				return "", nil, err
			}
		case <-ctx.Done():
			return "", nil, context.Cause(ctx)
		}
	}
	return "", nil, wire.Errorf(wire.CodeUnavailable, "the code %s is removed from the node's cache as fast as it is fetched", d)
}

// take holds an artifact that is there and looks untouched.
func (c *codeCache) take(d wire.Digest) (dir string, release func(), ok bool) {
	c.mu.Lock()
	held := c.present[d]
	if held == nil {
		c.mu.Unlock()
		return "", nil, false
	}
	held.holders++
	held.used = time.Now()
	c.mu.Unlock()
	dir = filepath.Join(c.path(d), codeFolder)
	if err := held.seal.glance(dir); err != nil {
		c.discard(d, held, err)
		c.letGo(held)
		return "", nil, false
	}
	return dir, func() { c.release(held) }, true
}

// release lets go of an artifact that was used.
func (c *codeCache) release(held *code) {
	c.mu.Lock()
	held.used = time.Now()
	c.mu.Unlock()
	c.letGo(held)
}

// letGo takes a holder away. The last one of files that were put aside removes them.
func (c *codeCache) letGo(held *code) {
	c.mu.Lock()
	held.holders--
	aside := held.aside
	if held.holders > 0 {
		aside = ""
	}
	c.mu.Unlock()
	if aside != "" {
		c.loads.Go(func() { c.clear(aside) })
	}
}

func (c *codeCache) path(d wire.Digest) string { return filepath.Join(c.dir, string(d)) }

// load fetches, checks and unpacks an artifact beside its place, and then moves it
// there, so that a folder with a digest's name is always whole.
func (c *codeCache) load(d wire.Digest) error {
	c.mu.Lock()
	_, ok := c.present[d]
	c.mu.Unlock()
	if ok {
		return nil // another fetch ended since the caller looked
	}
	ctx, cancel := context.WithTimeout(c.ctx, fetchBound)
	defer cancel()
	if err := os.MkdirAll(c.dir, 0o711); err != nil {
		return c.diskError(err)
	}
	temp, err := os.MkdirTemp(c.dir, "fetch-")
	if err != nil {
		return c.diskError(err)
	}
	defer os.RemoveAll(temp) // nothing is left of it after the move
	files := filepath.Join(temp, codeFolder)
	if err := os.Mkdir(files, 0o755); err != nil {
		return c.diskError(err)
	}
	if err := c.unpack(ctx, d, files); err != nil {
		return err
	}
	c.written()
	sealed, err := sealOf(files)
	if err == nil {
		err = writeSeal(filepath.Join(temp, sealFile), sealed)
	}
	if err == nil {
		err = os.Rename(temp, c.path(d))
	}
	if err != nil {
		return c.diskError(err)
	}
	c.mu.Lock()
	c.present[d] = &code{seal: sealed, used: time.Now()}
	c.mu.Unlock()
	return nil
}

// awaitForks waits for the programs that this process is starting. Until one runs, it holds
// every file that was open here, and a file that is open for writing cannot be run ("text
// file busy").
func awaitForks() {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
}

// unpack fetches an artifact into an empty folder. When S3 cannot be asked or the
// disk is full, the error is unavailable: another node, or a later try, may do.
func (c *codeCache) unpack(ctx context.Context, d wire.Digest, dir string) error {
	object, err := c.store.Get(ctx, wire.CodeKey(d))
	if errors.Is(err, blob.ErrNotFound) {
		return wire.Errorf(wire.CodeInternal, "the code %s is missing in S3; deploy the function again", d)
	}
	if err != nil {
		return wire.Errorf(wire.CodeUnavailable, "the code could not be fetched: %s", err)
	}
	defer object.Close()
	source := &source{r: object}
	sum := sha256.New()
	whole := io.TeeReader(source, sum)
	_, unpacked := bundle.Unpack(whole, dir, bundle.DefaultLimits())
	if unpacked == nil || source.err == nil { // the digest is of all bytes
		_, _ = io.Copy(io.Discard, whole)
	}
	switch got := wire.Digest(hex.EncodeToString(sum.Sum(nil))); {
	case source.err != nil:
		return wire.Errorf(wire.CodeUnavailable, "the code could not be fetched: %s", source.err)
	case isDisk(unpacked):
		return c.diskError(unpacked)
	case got != d:
		return wire.Errorf(wire.CodeInternal, "the code %s is damaged in S3 (its digest is %s); deploy the function again", d, got)
	case unpacked != nil:
		return wire.Errorf(wire.CodeInternal, "the code %s cannot be unpacked: %s", d, unpacked)
	}
	return nil
}

// source remembers why reading failed.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// isDisk reports whether the machine's disk failed rather than what is written.
func isDisk(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS}, func(errno error) bool {
		return errors.Is(err, errno)
	})
}

// diskError makes an answer of a failure of the disk, and room on it for the next try.
func (c *codeCache) diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		c.evict("", func(int, int64) bool { return true })
	}
	return wire.Errorf(wire.CodeUnavailable, "the code could not be unpacked on this node: %s", err)
}

// shrink keeps the cache within its bounds. It leaves what was just fetched.
func (c *codeCache) shrink(fresh wire.Digest) {
	c.evict(fresh, func(unused int, bytes int64) bool {
		var fs unix.Statfs_t
		full := unix.Statfs(c.dir, &fs) == nil && fs.Bavail*100 < fs.Blocks*minFreePercent
		return unused > c.most || bytes > c.mostBytes || full
	})
}

// evict removes artifacts that nobody uses, least recently used first, while more
// says so of their number and size.
func (c *codeCache) evict(but wire.Digest, more func(unused int, bytes int64) bool) {
	for {
		c.mu.Lock()
		var unused []wire.Digest
		var bytes int64
		for d, held := range c.present {
			if held.holders == 0 && d != but {
				unused = append(unused, d)
				bytes += held.seal.Bytes
			}
		}
		slices.SortFunc(unused, func(a, b wire.Digest) int {
			return cmp.Or(c.present[a].used.Compare(c.present[b].used), cmp.Compare(a, b))
		})
		c.mu.Unlock()
		if len(unused) == 0 || !more(len(unused), bytes) {
			return
		}
		// In the digest's own flight, so that it is not being fetched meanwhile.
		if _, err, _ := c.flight.Do(string(unused[0]), func() (any, error) { return nil, c.remove(unused[0]) }); err != nil {
			c.log.Warn("code not removed from the cache", "code", string(unused[0]), telemetry.KeyError, err)
			return
		}
	}
}

// remove takes an artifact out of the cache unless somebody holds it by now.
func (c *codeCache) remove(d wire.Digest) error {
	c.mu.Lock()
	held := c.present[d]
	if held == nil || held.holders > 0 {
		c.mu.Unlock()
		return nil
	}
	delete(c.present, d)
	c.mu.Unlock()
	// Under another name first: what has a digest's name is whole.
	gone := filepath.Join(c.dir, "gone-"+string(d))
	return errors.Join(os.RemoveAll(gone), os.Rename(c.path(d), gone), os.RemoveAll(gone))
}
