package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// leaseKey is a bucket with one key that expires, in the bubble's time. The
// integration tests use the real one; this one can be cut off at will.
type leaseKey struct {
	mu       sync.Mutex
	value    []byte
	revision uint64 // 0 when there is none
	written  time.Time
	last     uint64
	watchers []*candidate
}

// candidate is one election's way to the key.
type candidate struct {
	*election
	key *leaseKey

	mu sync.Mutex
	// cut makes requests hang; deaf does them but loses the answer, once.
	cut, deaf bool
	reigns    []*reign
	serving   *reign
	// lastWord says that it would still answer when it was told to end.
	lastWord bool
}

var errLost = errors.New("no answer")

const testTTL = 3 * time.Second

// newCandidate makes an election whose work is to note its reign.
func newCandidate(key *leaseKey, name string) *candidate {
	c := &candidate{key: key}
	cfg := Config{LeaderTTL: testTTL, RenewEvery: time.Second, Margin: time.Second, RetryEvery: 250 * time.Millisecond}
	c.election = newElection(name, cfg.withDefaults(), c.work, slog.New(slog.DiscardHandler))
	c.store = c
	key.watchers = append(key.watchers, c)
	return c
}

func (c *candidate) work(ctx context.Context, r *reign) error {
	c.mu.Lock()
	c.reigns, c.serving = append(c.reigns, r), r
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.serving, c.lastWord = nil, r.holds()
	c.mu.Unlock()
	return nil
}

// leads reports whether it would answer a request now.
func (c *candidate) leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serving != nil && c.serving.holds()
}

func (c *candidate) epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reigns) == 0 {
		return 0
	}
	return c.reigns[len(c.reigns)-1].epoch
}

func (c *candidate) set(cut, deaf bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.deaf = cut, deaf
}

// reach does a request unless the way to the key is cut.
func (c *candidate) reach(ctx context.Context, do func(k *leaseKey) error) error {
	c.mu.Lock()
	cut, deaf := c.cut, c.deaf
	c.deaf = false
	c.mu.Unlock()
	if cut {
		<-ctx.Done()
		return ctx.Err()
	}
	err := func() error {
		c.key.mu.Lock()
		defer c.key.mu.Unlock()
		if time.Since(c.key.written) >= testTTL {
			c.key.revision = 0
		}
		return do(c.key)
	}()
	if deaf {
		return errLost
	}
	return err
}

func (k *leaseKey) write(value []byte, deleted bool) {
	k.last++
	k.value, k.revision, k.written = value, k.last, time.Now()
	if deleted {
		k.revision = 0
	}
	for _, w := range k.watchers {
		w.mu.Lock()
		cut := w.cut
		w.mu.Unlock()
		if !cut {
			w.see(bus.Entry{Key: wire.SchedulerLeaseKey, Value: value, Revision: k.last, Deleted: deleted})
		}
	}
}

func (c *candidate) Get(ctx context.Context, key string) (e bus.Entry, err error) {
	err = c.reach(ctx, func(k *leaseKey) error {
		if k.revision == 0 {
			return bus.ErrNotFound
		}
		e = bus.Entry{Key: key, Value: k.value, Revision: k.revision}
		return nil
	})
	return e, err
}

func (c *candidate) Create(ctx context.Context, _ string, value []byte) (revision uint64, err error) {
	err = c.reach(ctx, func(k *leaseKey) error {
		if k.revision != 0 {
			return bus.ErrExists
		}
		k.write(value, false)
		revision = k.revision
		return nil
	})
	return revision, err
}

func (c *candidate) Update(ctx context.Context, _ string, value []byte, at uint64) (revision uint64, err error) {
	err = c.reach(ctx, func(k *leaseKey) error {
		if k.revision != at {
			return bus.ErrConflict
		}
		k.write(value, false)
		revision = k.revision
		return nil
	})
	return revision, err
}

func (c *candidate) Delete(ctx context.Context, _ string, at uint64) error {
	return c.reach(ctx, func(k *leaseKey) error {
		if k.revision != at {
			return bus.ErrConflict
		}
		k.write(nil, true)
		return nil
	})
}

// start runs an election and returns what stops it.
func (c *candidate) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(ctx)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// after lets time pass in the bubble.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
