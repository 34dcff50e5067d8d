package invoker

import (
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// scrubLoop verifies the artifacts whole, one after the other, in the background: a
// look before each use sees only some files of a large one, and not what they hold.
func (c *codeCache) scrubLoop() {
	tick := time.NewTicker(scrubEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			c.scrub(now.Add(-scrubAgain))
		case <-c.ctx.Done():
			return
		}
	}
}

// scrub verifies the artifact that was last verified longest ago, if before a time.
func (c *codeCache) scrub(before time.Time) {
	c.mu.Lock()
	var d wire.Digest
	var held *code
	for digest, candidate := range c.present {
		if candidate.scrubbed.Before(before) && (held == nil || candidate.scrubbed.Before(held.scrubbed)) {
			d, held = digest, candidate
		}
	}
	if held == nil {
		c.mu.Unlock()
		return
	}
	content, first := held.content, held.scrubbed.IsZero()
	held.holders++ // so that it stays there meanwhile
	held.scrubbed = time.Now()
	c.mu.Unlock()
	defer c.letGo(held)

	dir := filepath.Join(c.path(d), codeFolder)
	err := held.seal.verify(dir)
	now := content
	if err == nil {
		now, err = contentSum(dir)
	}
	if err == nil && !first && now != content {
		err = errSealBroken
	}
	if err != nil {
		c.discard(d, held, err)
		return
	}
	c.mu.Lock()
	held.content = now
	c.mu.Unlock()
}

// discard takes an artifact out of the cache that was changed since it was
// unpacked, so that the next call fetches it anew. Those who hold it keep its files.
func (c *codeCache) discard(d wire.Digest, held *code, why error) {
	// In the digest's own flight, so that it is not being fetched meanwhile.
	_, _, _ = c.flight.Do(string(d), func() (any, error) { // no error
		c.mu.Lock()
		gone := c.present[d] != held
		if !gone {
			delete(c.present, d)
		}
		c.mu.Unlock()
		if gone {
			return nil, nil
		}
		c.log.Warn("code in the node's cache was changed or removed; the next call fetches it anew",
			"code", string(d), telemetry.KeyError, why)
		aside := filepath.Join(c.dir, "changed-"+uuid.NewString())
		if err := os.Rename(c.path(d), aside); err != nil {
			return nil, nil // somebody cleared the cache
		}
		c.mu.Lock()
		held.aside = aside
		c.mu.Unlock()
		return nil, nil
	})
}

// clear removes what is not in the cache any more.
func (c *codeCache) clear(path string) {
	if err := os.RemoveAll(path); err != nil {
		c.log.Warn("code not removed; the next start does", telemetry.KeyError, err)
	}
}
