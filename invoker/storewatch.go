package invoker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// storeProbeEvery is how often S3 is asked while outputs cannot be stored, and
	// storeProbeBound limits one question.
	storeProbeEvery = time.Second
	storeProbeBound = 2 * time.Second
)

// storeWatch knows whether what events leave can be stored. It is safe for concurrent use.
type storeWatch struct {
	// next is when S3 is asked again, in Unix nanoseconds; 0 while all is well.
	next atomic.Int64
}

// failed notes that an output could not be stored.
func (s *storeWatch) failed() { s.next.CompareAndSwap(0, time.Now().UnixNano()) }

// check returns why an accepted event must wait, or nil. An event whose output cannot be
// stored is not run: it would be run again, and its attempts be spent by a failure that
// is not its own.
func (s *storeWatch) check(ctx context.Context, healthy func(context.Context) error) *wire.Error {
	next := s.next.Load()
	if next == 0 {
		return nil
	}
	now := time.Now()
	if now.UnixNano() < next || !s.next.CompareAndSwap(next, now.Add(storeProbeEvery).UnixNano()) {
		return wire.Errorf(wire.CodeUnavailable, "outputs of events cannot be stored now: S3 does not answer; events wait")
	}
	ctx, cancel := context.WithTimeout(ctx, storeProbeBound)
	defer cancel()
	if err := healthy(ctx); err != nil {
		return wire.Errorf(wire.CodeUnavailable, "outputs of events cannot be stored now, so that events wait: %s", err)
	}
	s.next.Store(0)
	return nil
}
