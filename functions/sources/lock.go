package sources

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// lockTTL is when the lock of a process that died is free again; lockedBound, which
	// is less, how long a holder may work.
	lockTTL, lockedBound = 30 * time.Second, 20 * time.Second
	// lockBound limits the wait for the lock, and lockPoll is how often it is tried.
	lockBound, lockPoll = 45 * time.Second, 20 * time.Millisecond
)

// locked calls work while no other process is in here. JetStream has no compare-and-set
// for a stream's subjects: two that each add one would lose one of them.
func (s *Sources) locked(ctx context.Context, work func(context.Context) error) error {
	revision, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := s.locks.Delete(ctx, wire.SourcesLock, revision); err != nil {
			s.log.Warn("the lock of the sources ends by itself", "error", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, lockedBound)
	defer cancel()
	return work(ctx)
}

func (s *Sources) lock(ctx context.Context) (revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockBound)
	defer cancel()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for taken := false; ; {
		revision, err = s.locks.Create(ctx, wire.SourcesLock, nil)
		taken = taken || errors.Is(err, bus.ErrExists)
		switch {
		case err == nil || !taken:
			return revision, err
		case ctx.Err() != nil:
			return 0, fmt.Errorf("others are changing triggers: %w", context.Cause(ctx))
		case !errors.Is(err, bus.ErrExists):
			return 0, err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
