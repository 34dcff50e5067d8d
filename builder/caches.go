package builder

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// maxCache bounds what is kept of one namespace's caches after a build, as a part of
	// what a build may write, and maxCaches how many namespaces have some.
	maxCacheShare = 2
	maxCaches     = 8
)

// caches are the folders that tools keep between builds, one for each namespace: what one
// build leaves there is believed by the next, so that nobody else's may read it. It is
// safe for concurrent use.
type caches struct {
	mu   sync.Mutex
	used map[string]int // guarded by mu: builds that use a namespace's
}

// openCache returns a namespace's cache, which stays until release.
func (b *Builder) openCache(namespace string) (path string, release func(), err error) {
	path = filepath.Join(b.cfg.DataDir, "cache", namespace)
	b.caches.take(namespace)
	release = func() { b.releaseCache(namespace) }
	if err := makeFolder(path); err != nil {
		release()
		return "", nil, err
	}
	now := time.Now()
	// What is in it belongs to that user already.
	if err := errors.Join(os.Chown(path, BuildUID, BuildUID), os.Chtimes(path, now, now)); err != nil {
		release()
		return "", nil, fmt.Errorf("make build cache: %w", err)
	}
	return path, release, nil
}

// releaseCache removes the cache when it is too large, and the oldest when there are too
// many. Tools trim their own caches by age, if at all, and never by size.
func (b *Builder) releaseCache(namespace string) {
	path := filepath.Join(b.cfg.DataDir, "cache", namespace)
	large := measure(path).bytes > b.cfg.DiskBytes/maxCacheShare
	b.caches.mu.Lock()
	doomed := b.caches.release(filepath.Dir(path), namespace, large)
	b.caches.mu.Unlock()
	for _, folder := range doomed {
		if err := os.RemoveAll(folder); err != nil {
			b.log.Warn("build cache is not removed", "dir", folder, "error", err)
		}
	}
}

func (c *caches) take(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used == nil {
		c.used = map[string]int{}
	}
	c.used[namespace]++
}

// release gives a cache back, and moves those that must go out of the way. mu is held.
func (c *caches) release(dir, namespace string, large bool) (doomed []string) {
	if c.used[namespace]--; c.used[namespace] == 0 {
		delete(c.used, namespace)
	}
	drop := func(name string) {
		to := filepath.Join(dir, fmt.Sprintf(".%s-%d", name, time.Now().UnixNano()))
		if c.used[name] == 0 && os.Rename(filepath.Join(dir, name), to) == nil {
			doomed = append(doomed, to)
		}
	}
	if large {
		drop(namespace)
	}
	kept := listCaches(dir)
	for _, name := range kept[:max(0, len(kept)-maxCaches)] {
		drop(name)
	}
	return doomed
}

// listCaches returns the caches of a folder, the one that was used last at the end. What
// cannot be read is not there.
func listCaches(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	at := map[string]time.Time{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name()[0] != '.' {
			names, at[e.Name()] = append(names, e.Name()), info.ModTime()
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(at[a].Compare(at[b]), cmp.Compare(a, b)) })
	return names
}

// clearCaches removes what an earlier run was removing.
func clearCaches(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
