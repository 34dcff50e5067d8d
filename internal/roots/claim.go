package roots

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// claimTTL is how long the claim of a process that died keeps others waiting.
	claimTTL = 30 * time.Second
	// claimRenew is how often a process says that it is still at it.
	claimRenew = 5 * time.Second
	// claimLook is how often those that wait look.
	claimLook = 500 * time.Millisecond
	// releaseBound limits giving a claim back.
	releaseBound = 5 * time.Second
)

// openClaims opens the bucket of roots that are being made. Nodes that start together
// would all make the same ones, each as slowly as there are nodes on a machine. A claim
// that is lost costs work and does no harm: one of the results is kept.
func openClaims(ctx context.Context, conn *bus.Conn) (*bus.Bucket, error) {
	return conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketRootClaims, TTL: claimTTL, MaxValueBytes: 1 << 10})
}

// claim says that this process makes a root, until release is called. It fails with
// [bus.ErrExists] when another does.
func (s *Store) claim(ctx context.Context, r Recipe) (release func(), err error) {
	key := s.key(r)
	revision, err := s.claims.Create(ctx, key, nil)
	if err != nil {
		return nil, err
	}
	base := context.WithoutCancel(ctx)
	renewing, stop := context.WithCancel(base)
	var renewal sync.WaitGroup
	renewal.Go(func() { revision = s.renew(renewing, key, revision) })
	return func() {
		stop()
		renewal.Wait()
		ctx, cancel := context.WithTimeout(base, releaseBound)
		defer cancel()
		if err := s.claims.Delete(ctx, key, revision); err != nil && !errors.Is(err, bus.ErrConflict) && !errors.Is(err, bus.ErrNotFound) {
			s.log.Warn("others wait in vain for a runtime for a while", "root", r.Name, "wait", claimTTL, telemetry.KeyError, err)
		}
	}, nil
}

// renew keeps a claim until ctx is done or it is lost, and returns its last revision.
func (s *Store) renew(ctx context.Context, key string, revision uint64) uint64 {
	tick := time.NewTicker(claimRenew)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return revision
		}
		next, err := s.claims.Update(ctx, key, nil, revision)
		switch {
		case err == nil:
			revision = next
		case errors.Is(err, bus.ErrConflict):
			return revision
		}
	}
}

// awaitClaim waits a little for one that makes a root.
func awaitClaim(ctx context.Context) error {
	timer := time.NewTimer(claimLook)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
