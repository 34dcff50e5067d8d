package invoker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

// codeCache holds unpacked artifacts by digest. It is only a cache: it may vanish
// between runs. Safe for concurrent use.
type codeCache struct {
	dir   string
	store *blob.Store
	fetch singleflight.Group

	mu      sync.Mutex
	present map[wire.Digest]struct{} // guarded by mu
}

// openCodeCache takes over what an earlier run left whole and removes the rest.
func openCodeCache(dir string, store *blob.Store) (*codeCache, error) {
	c := &codeCache{dir: dir, store: store, present: map[wire.Digest]struct{}{}}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("code cache: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("code cache: %w", err)
	}
	for _, e := range entries {
		if d := wire.Digest(e.Name()); d.Valid() {
			c.present[d] = struct{}{}
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("code cache: %w", err)
		}
	}
	return c, nil
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

// path returns the folder with an artifact's files, fetching it when it is not
// there. Any number of calls fetch it once. The fetch goes on when one caller
// gives up, for the others.
func (c *codeCache) path(ctx context.Context, d wire.Digest) (string, error) {
	dir := filepath.Join(c.dir, string(d))
	c.mu.Lock()
	_, ok := c.present[d]
	c.mu.Unlock()
	if ok {
		return dir, nil
	}
	result := c.fetch.DoChan(string(d), func() (any, error) {
		return nil, c.load(context.WithoutCancel(ctx), d, dir)
	})
	select {
	case r := <-result:
		return dir, r.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// load fetches, checks and unpacks an artifact beside its place, and then moves it
// there, so that a folder with a digest's name is always whole.
func (c *codeCache) load(ctx context.Context, d wire.Digest, dir string) error {
	object, err := c.store.Get(ctx, wire.CodeKey(d))
	if errors.Is(err, blob.ErrNotFound) {
		return wire.Errorf(wire.CodeInternal, "the code %s is missing in S3; deploy the function again", d)
	}
	if err != nil {
		return fmt.Errorf("fetch code: %w", err)
	}
	defer object.Close()
	temp, err := os.MkdirTemp(c.dir, "fetch-")
	if err != nil {
		return fmt.Errorf("unpack code: %w", err)
	}
	defer os.RemoveAll(temp) // nothing is left of it after the move
	sum := sha256.New()
	whole := io.TeeReader(object, sum)
	if _, err := bundle.Unpack(whole, temp, bundle.DefaultLimits()); err != nil {
		return fmt.Errorf("unpack code %s: %w", d, err)
	}
	if _, err := io.Copy(io.Discard, whole); err != nil {
		return fmt.Errorf("fetch code: %w", err)
	}
	if got := wire.Digest(hex.EncodeToString(sum.Sum(nil))); got != d {
		return fmt.Errorf("the code %s is damaged in S3 (its digest is %s); deploy the function again", d, got)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return fmt.Errorf("unpack code: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("unpack code: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.present[d] = struct{}{}
	return nil
}
