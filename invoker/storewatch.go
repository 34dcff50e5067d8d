package invoker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// storeProbeEvery is how often it is tried to store something while outputs cannot be
	// stored, and storeProbeBound limits one try.
	storeProbeEvery = time.Second
	storeProbeBound = 2 * time.Second
	// storeProbeBytes is the size of what is stored then: a disk that is full may have room
	// for a few bytes.
	storeProbeBytes = 64 << 10
)

// storeWatch knows whether what events leave can be stored. It is safe for concurrent use.
type storeWatch struct {
	began time.Time
	// next is when S3 is tried again, in nanoseconds after began by the monotonic clock; 0
	// while all is well.
	next atomic.Int64
}

func newStoreWatch(now time.Time) *storeWatch { return &storeWatch{began: now} }

// failed notes that an output could not be stored.
func (s *storeWatch) failed(now time.Time) { s.next.CompareAndSwap(0, s.at(now)) }

func (s *storeWatch) at(t time.Time) int64 { return max(1, int64(t.Sub(s.began))) }

// check returns why an accepted event must wait, or nil. An event whose output cannot be
// stored is not run: it would be run again, and its attempts be spent by a failure that
// is not its own. store stores something: that S3 answers does not say that it takes
// anything.
func (s *storeWatch) check(ctx context.Context, now time.Time, store func(context.Context) error) *wire.Error {
	next := s.next.Load()
	if next == 0 {
		return nil
	}
	later := s.at(now.Add(storeProbeEvery))
	if s.at(now) < next || !s.next.CompareAndSwap(next, later) {
		return wire.Errorf(wire.CodeUnavailable, "outputs of events cannot be stored now: S3 does not take them; events wait")
	}
	ctx, cancel := context.WithTimeout(ctx, storeProbeBound)
	defer cancel()
	if err := store(ctx); err != nil {
		return wire.Errorf(wire.CodeUnavailable, "outputs of events cannot be stored now, so that events wait: %s", err)
	}
	s.next.CompareAndSwap(later, 0) // unless another try has begun, which will tell
	return nil
}

// probeStore stores something where outputs are stored; what nodes leave there goes as old
// outputs go.
func (inv *Invoker) probeStore(ctx context.Context) error {
	return inv.deps.Store.PutBytes(ctx, wire.StoreProbeKey(inv.cfg.Node), make([]byte, storeProbeBytes), "application/octet-stream")
}
