package invoker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// StemConfig sizes the pools of stems.
type StemConfig struct {
	// Floor and Ceiling bound the stems of one kind that are held ready. The floor is
	// for the kinds that Kinds names, others have none.
	Floor, Ceiling int
	// BudgetBytes bounds the memory of all stems together.
	BudgetBytes int64
	// Starts bounds the containers that are started at once: many at once are slower
	// than a few at a time.
	Starts int
	// Network is the one of the stems that are held ready from the beginning.
	Network string
}

const (
	// stemTick is how often the pools are looked after when nothing happens.
	stemTick = time.Second
	// stemBackoffFirst and stemBackoffLast bound the pause after a failed start.
	stemBackoffFirst = 500 * time.Millisecond
	stemBackoffLast  = 30 * time.Second
	// maxStemKinds bounds the pools.
	maxStemKinds = 64
)

// stemKind is what stems have in common that any function of a runtime and network
// can be bound to.
type stemKind struct{ root, network string }

// stemPool holds the stems of one kind.
type stemPool struct {
	runtime runtimes.Runtime
	network string
	floor   int
	ceiling int
	ready   chan *instance

	// Guarded by the stems' mu.
	waiters  []chan delivery // of those that found none ready, the longest there first
	retired  bool            // nothing goes into ready any more
	starting int
	demand   pool.Demand
	backoff  time.Duration
	notUntil time.Time
}

// stems keeps containers ready that have their language loaded and no function yet.
// It is safe for concurrent use.
type stems struct {
	cfg    StemConfig
	launch *launch
	metric *metrics
	log    *slog.Logger
	slots  chan struct{} // holds one for every container being started
	ctx    context.Context
	starts sync.WaitGroup

	mu     sync.Mutex // guards what follows
	pools  map[stemKind]*stemPool
	needy  map[*stemPool]struct{} // somebody waits there
	held   int64                  // bytes of ready and starting stems
	closed bool
	// draining says that none is held ready.
	draining bool
}

// newStems makes empty pools. Their containers are started until ctx is done.
func newStems(ctx context.Context, cfg StemConfig, l *launch, m *metrics, log *slog.Logger) *stems {
	return &stems{
		cfg: cfg, launch: l, metric: m, log: log, ctx: ctx,
		slots: make(chan struct{}, max(cfg.Starts, 1)),
		pools: map[stemKind]*stemPool{}, needy: map[*stemPool]struct{}{},
	}
}

// run looks after the pools until their context is done, and then removes what is in
// them.
func (s *stems) run() {
	for _, rt := range runtimes.All() {
		s.pool(rt, s.cfg.Network).floor = s.cfg.Floor
	}
	tick := time.NewTicker(stemTick)
	defer tick.Stop()
	for {
		s.refill()
		select {
		case <-s.ctx.Done():
			s.close()
			return
		case <-tick.C:
			s.prune()
		}
	}
}

func newInstanceID() wire.InstanceID { return wire.InstanceID(uuid.NewString()) }

// claim takes a stem out of the account and says whether it lives; one that does not
// is removed.
func (s *stems) claim(in *instance) bool {
	s.mu.Lock()
	s.held -= in.runtime.StemBytes
	s.mu.Unlock()
	return s.lives(in)
}

// lives says whether a claimed stem lives; one that does not is removed.
func (s *stems) lives(in *instance) bool {
	select {
	case <-in.container.Exited():
		s.discardSoon(in)
		return false
	default:
		return true
	}
}

// counts returns how many stems are ready, by root and network.
func (s *stems) counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[string]int, len(s.pools))
	for kind, p := range s.pools {
		n := len(p.ready)
		s.metric.stems.WithLabelValues(kind.root, kind.network).Set(float64(n))
		if n > 0 {
			counts[wire.StemKey(kind.root, kind.network)] = n
		}
	}
	return counts
}

func (s *stems) pool(rt runtimes.Runtime, network string) *stemPool {
	kind := stemKind{rt.Root(), network}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[kind]
	if p == nil {
		p = &stemPool{runtime: rt, network: network}
		if len(s.pools) < maxStemKinds { // else it serves this one call only
			p.ceiling = s.cfg.Ceiling
			s.pools[kind] = p
		}
		p.ready = make(chan *instance, p.ceiling)
	}
	return p
}

// refill starts what is missing, as far as slots and memory go: first for those who
// wait, whatever it takes, then for those who will come.
func (s *stems) refill() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.needy {
		for len(p.waiters) > p.starting {
			if !s.begin(p) {
				return // the next one that ends comes here again
			}
		}
	}
	if s.draining {
		return
	}
	for _, p := range s.pools {
		want := p.demand.Target(now, p.floor, p.ceiling) + len(p.waiters) - len(p.ready) - p.starting
		for ; want > 0 && now.After(p.notUntil) && s.held+p.runtime.StemBytes <= s.cfg.BudgetBytes; want-- {
			if !s.begin(p) {
				return
			}
		}
	}
}

// begin starts a stem for a pool, unless as many as may be are being started; s.mu
// is held.
func (s *stems) begin(p *stemPool) bool {
	if s.closed || s.ctx.Err() != nil {
		return false
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return false
	}
	p.starting++
	s.held += p.runtime.StemBytes
	s.starts.Go(func() { s.start(p) })
	return true
}

// start makes one stem for a pool.
func (s *stems) start(p *stemPool) {
	in, err := s.launch.stem(s.ctx, newInstanceID(), p.runtime, p.network)
	<-s.slots
	s.mu.Lock()
	p.starting--
	var taken bool
	if err == nil {
		p.backoff = 0
		taken = s.offer(p, in)
	} else {
		s.held -= p.runtime.StemBytes
		p.backoff = min(max(2*p.backoff, stemBackoffFirst), stemBackoffLast)
		p.notUntil = time.Now().Add(p.backoff)
		taken = s.ctx.Err() != nil || s.deliver(p, delivery{err: err})
	}
	s.mu.Unlock()
	switch {
	case taken:
	case err == nil:
		s.discardSoon(in)
	default:
		s.log.Warn("no stem", "root", p.runtime.Root(), "network", p.network, telemetry.KeyError, err)
	}
	s.refill()
}

// offer gives a stem to one that waits for it, or puts it into its pool. It reports
// false when that is full, and the caller must remove it; s.mu is held.
func (s *stems) offer(p *stemPool, in *instance) bool {
	if s.deliver(p, delivery{stem: in}) {
		s.held -= in.runtime.StemBytes
		return true
	}
	ready := p.ready
	if p.retired || s.closed || s.draining {
		ready = nil
	}
	select {
	case ready <- in:
		return true
	default:
		s.held -= in.runtime.StemBytes
		return false
	}
}

// prune removes stems that died, and one at a time those that are too many.
func (s *stems) prune() {
	now := time.Now()
	s.mu.Lock()
	pools := make(map[*stemPool]int, len(s.pools))
	for kind, p := range s.pools {
		target := p.demand.Target(now, p.floor, p.ceiling)
		pools[p] = target
		// An image that nobody calls any more makes room for others.
		if _, image := p.runtime.Image(); image && target+len(p.ready)+len(p.waiters)+p.starting == 0 {
			p.retired = true
			delete(s.pools, kind)
		}
	}
	s.mu.Unlock()
	for p, target := range pools {
		surplus := len(p.ready) > target
		for range len(p.ready) {
			select {
			case in := <-p.ready:
				switch {
				case !s.claim(in):
				case s.launch.roots.outdated(in.runtime, in.root):
					s.discardSoon(in)
				case surplus:
					surplus = false
					s.discardSoon(in)
				default:
					s.giveBack(p, in)
				}
			default:
			}
		}
	}
}

// drain removes the stems that are ready and holds none any more, or does so again. Who
// waits for one gets it.
func (s *stems) drain(on bool) {
	s.mu.Lock()
	s.draining = on
	pools := make([]*stemPool, 0, len(s.pools))
	for _, p := range s.pools {
		pools = append(pools, p)
	}
	s.mu.Unlock()
	if !on {
		s.refill()
		return
	}
	for _, p := range pools {
		for more := true; more; {
			select {
			case in := <-p.ready:
				if s.claim(in) {
					s.discardSoon(in)
				}
			default:
				more = false
			}
		}
	}
}

// some reports whether a stem is ready or being started.
func (s *stems) some() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		if len(p.ready)+p.starting > 0 {
			return true
		}
	}
	return false
}

// close waits for what is being started, and removes all stems.
func (s *stems) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.starts.Wait()
	s.mu.Lock()
	pools := make([]*stemPool, 0, len(s.pools))
	for _, p := range s.pools {
		pools = append(pools, p)
	}
	s.mu.Unlock()
	var wait sync.WaitGroup
	for _, p := range pools {
		for len(p.ready) > 0 {
			in := <-p.ready
			s.claim(in)
			wait.Go(func() { s.discard(in) })
		}
	}
	wait.Wait()
}

// discardSoon is discard for who does not wait for it.
func (s *stems) discardSoon(in *instance) {
	s.mu.Lock()
	if !s.closed {
		s.starts.Go(func() { s.discard(in) })
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.discard(in)
}

func (s *stems) discard(in *instance) {
	if err := in.destroy(context.Background()); err != nil {
		s.log.Error("stem not removed whole; the next start removes the rest",
			telemetry.KeyInstance, string(in.id), telemetry.KeyError, err)
	}
}
