package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	keyEpoch  = "epoch"
	keyHolder = "holder"
)

// maxLeaseValue bounds the leader's lease in the bucket, in bytes.
const maxLeaseValue = 4096

// leaseStore is what an election needs of a key-value bucket whose keys end when
// they were not written for the leader's TTL. It is safe for concurrent use; its
// errors are those of [bus.Bucket].
type leaseStore interface {
	Get(ctx context.Context, key string) (bus.Entry, error)
	Create(ctx context.Context, key string, value []byte) (revision uint64, err error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
}

// leaseValue is the leader's lease as it stands in the bucket.
type leaseValue struct {
	Holder string `json:"holder"`
	// Epoch is the revision at which the holder created the key, the same for
	// the whole reign. It is left out of that first revision, which is it.
	Epoch uint64 `json:"epoch,omitempty"`
}

// Why a reign ended.
var (
	errStopping = errors.New("this scheduler stops")
	errTaken    = errors.New("the lease is another's or gone")
	errLapsed   = errors.New("the lease was not renewed in time")
)

// reign is the time for which one scheduler leads, under one epoch.
type reign struct {
	epoch uint64
	began time.Time
	until atomic.Int64 // nanoseconds after began, by the monotonic clock
	// revision is the newest of the key; only the election touches it.
	revision uint64
}

// holds reports whether the lease lasts beyond doubt at this moment. A process
// that was paused learns from it that its time is over.
func (r *reign) holds() bool { return int64(time.Since(r.began)) < r.until.Load() }

func (r *reign) extend(until time.Time) { r.until.Store(int64(until.Sub(r.began))) }
func (r *reign) end() time.Time         { return r.began.Add(time.Duration(r.until.Load())) }
func (r *reign) revoke()                { r.until.Store(0) }

// election makes this scheduler lead whenever it can, one reign after another.
type election struct {
	holder string
	cfg    Config
	store  leaseStore // set before run
	// serve is the leader's work. It returns when ctx is done, or with an error
	// when it cannot go on; then others get their chance.
	serve func(ctx context.Context, r *reign) error
	log   *slog.Logger
	news  chan struct{} // holds an item when seen has changed

	mu   sync.Mutex // guards what follows
	seen sighting
	// led is when the lease was written, as far as is known without a gap.
	led roster.Span
}

// sighting is the last that was seen of the key.
type sighting struct {
	leaseValue
	revision uint64
	deleted  bool
	at       time.Time
}

func newElection(holder string, cfg Config, serve func(context.Context, *reign) error, log *slog.Logger) *election {
	return &election{holder: holder, cfg: cfg, serve: serve, log: log, news: make(chan struct{}, 1)}
}

// see takes what a watch of the bucket tells.
func (e *election) see(entry bus.Entry) {
	if entry.Key != wire.SchedulerLeaseKey {
		return
	}
	s := sighting{revision: entry.Revision, deleted: entry.Deleted, at: time.Now()}
	if !entry.Deleted {
		if err := json.Unmarshal(entry.Value, &s.leaseValue); err != nil {
			e.log.Warn("the scheduler's lease is not readable", telemetry.KeyError, err)
		}
	}
	e.mu.Lock()
	if s.revision != e.seen.revision {
		e.led = e.led.Extend(s.at)
	}
	e.seen = s
	e.mu.Unlock()
	select {
	case e.news <- struct{}{}:
	default:
	}
}

func (e *election) lastSeen() sighting {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen
}

// wrote notes that a write of this scheduler's took place.
func (e *election) wrote() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.led = e.led.Extend(time.Now())
}

// inTouch is the time for which the lease was seen to be written over and over, so that
// NATS' servers here were those that decide.
func (e *election) inTouch() roster.Span {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.led
}

// otherLeads reports whether another scheduler held the lease within its TTL.
func (e *election) otherLeads(now time.Time) bool {
	s := e.lastSeen()
	return s.Holder != "" && s.Holder != e.holder && now.Sub(s.at) < e.cfg.LeaderTTL
}

// run takes part until ctx is done. Then it has given back what it held.
func (e *election) run(ctx context.Context) {
	for first := true; ; first = false {
		r := e.campaign(ctx, first)
		if r == nil {
			return
		}
		e.lead(ctx, r)
	}
}

// campaign returns a reign once the lease is won, or nil when ctx is done. It
// tries when the key is seen deleted, when it must have expired, and now and
// then in case the watch missed something.
func (e *election) campaign(ctx context.Context, atOnce bool) *reign {
	earliest := time.Now() // a reign that failed is not repeated without a pause
	if !atOnce {
		earliest = earliest.Add(e.cfg.RetryEvery)
	}
	try := time.NewTimer(time.Until(earliest))
	defer try.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.news:
			try.Reset(max(time.Until(e.vacantAt()), time.Until(earliest)))
			continue
		case <-try.C:
		}
		if r := e.claim(ctx); r != nil {
			return r
		}
		try.Reset(max(time.Until(e.vacantAt()), e.cfg.RetryEvery))
	}
}

// vacantAt is when the lease that was seen last ends unless it is renewed.
func (e *election) vacantAt() time.Time {
	s := e.lastSeen()
	if s.deleted || s.Holder == e.holder {
		return s.at
	}
	return s.at.Add(e.cfg.LeaderTTL)
}

// claim tries to create the key. The reign counts from before the request, so it
// ends before the key does, however long the answer took.
func (e *election) claim(ctx context.Context) *reign {
	value, err := json.Marshal(leaseValue{Holder: e.holder})
	if err != nil {
		e.log.Error("lease not encoded", telemetry.KeyError, err)
		return nil
	}
	// Not cut short by a stop: a key that was created unseen would block others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.LeaderTTL-e.cfg.Margin)
	defer cancel()
	sent := time.Now()
	revision, err := e.store.Create(ctx, wire.SchedulerLeaseKey, value)
	switch {
	case err == nil:
		e.wrote()
		r := &reign{epoch: revision, revision: revision, began: sent}
		r.extend(sent.Add(e.cfg.LeaderTTL - e.cfg.Margin))
		return r
	case errors.Is(err, bus.ErrExists):
		e.dropOwn(ctx)
	default:
		e.log.Warn("cannot run for leader", telemetry.KeyError, err)
	}
	return nil
}

// dropOwn deletes a key that this scheduler holds without leading: the answer to
// an earlier write was lost.
func (e *election) dropOwn(ctx context.Context) {
	entry, err := e.store.Get(ctx, wire.SchedulerLeaseKey)
	if err != nil {
		return
	}
	var value leaseValue
	if json.Unmarshal(entry.Value, &value) != nil || value.Holder != e.holder {
		return
	}
	e.release(ctx, entry.Revision)
}

// lead serves for one reign and renews its lease. When it returns, serve has.
func (e *election) lead(ctx context.Context, r *reign) {
	e.log.Info("became the leader", keyEpoch, r.epoch, keyHolder, e.holder)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	var failed error
	go func() {
		defer close(ended)
		failed = e.serve(serving, r)
	}()

	why := e.renewUntil(ctx, r, ended)
	if errors.Is(why, errTaken) || errors.Is(why, errLapsed) {
		r.revoke() // what still waits for an answer gets none
	}
	stop()
	<-ended
	if failed != nil {
		why = failed
	}
	r.revoke()
	if errors.Is(why, errStopping) {
		e.log.Info("stepped down", keyEpoch, r.epoch, "reason", why)
	} else {
		e.log.Warn("stepped down", keyEpoch, r.epoch, "reason", why)
	}
	if errors.Is(why, errTaken) || errors.Is(why, errLapsed) {
		return
	}
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.RenewEvery)
	defer cancel()
	e.release(releasing, r.revision)
}

// renewUntil renews the lease until there is a reason to step down.
func (e *election) renewUntil(ctx context.Context, r *reign, ended <-chan struct{}) error {
	tick := time.NewTicker(e.cfg.RenewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return errStopping
		case <-ended:
			return nil
		case <-e.news:
			s := e.lastSeen()
			if s.revision >= r.epoch && (s.deleted || s.Holder != e.holder) {
				return errTaken
			}
		case <-tick.C:
			if err := e.renew(ctx, r); err != nil {
				return err
			}
		}
	}
}

// renew writes the key once more. Any failure ends the reign: after an answer
// that was lost, nobody knows which revision the key has.
func (e *election) renew(ctx context.Context, r *reign) error {
	if !r.holds() {
		return errLapsed
	}
	value, err := json.Marshal(leaseValue{Holder: e.holder, Epoch: r.epoch})
	if err != nil {
		return fmt.Errorf("%w: %w", errLapsed, err)
	}
	// Not cut short by a stop, so that the revision to release is known.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), r.end())
	defer cancel()
	sent := time.Now()
	revision, err := e.store.Update(ctx, wire.SchedulerLeaseKey, value, r.revision)
	switch {
	case errors.Is(err, bus.ErrConflict):
		return fmt.Errorf("%w: %w", errTaken, err)
	case err != nil:
		return fmt.Errorf("%w: %w", errLapsed, err)
	}
	e.wrote()
	r.revision = revision
	r.extend(sent.Add(e.cfg.LeaderTTL - e.cfg.Margin))
	return nil
}

// release deletes the key if it is still at revision, so that others need not
// wait until it expires.
func (e *election) release(ctx context.Context, revision uint64) {
	err := e.store.Delete(ctx, wire.SchedulerLeaseKey, revision)
	if err != nil && !errors.Is(err, bus.ErrConflict) && !errors.Is(err, bus.ErrNotFound) {
		e.log.Warn("lease not given back; it ends by itself", telemetry.KeyError, err, "after", e.cfg.LeaderTTL)
	}
}
