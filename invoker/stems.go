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
	ready   chan *instance

	// Guarded by the stems' mu.
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
	wake   chan struct{}
	loops  sync.WaitGroup

	mu    sync.Mutex
	pools map[stemKind]*stemPool // guarded by mu
	held  int64                  // bytes of ready and starting stems; guarded by mu
}

func newStems(cfg StemConfig, l *launch, m *metrics, log *slog.Logger) *stems {
	return &stems{
		cfg: cfg, launch: l, metric: m, log: log,
		slots: make(chan struct{}, max(cfg.Starts, 1)), wake: make(chan struct{}, 1),
		pools: map[stemKind]*stemPool{},
	}
}

// run looks after the pools until ctx is done, and then removes what is in them.
func (s *stems) run(ctx context.Context) {
	for _, rt := range runtimes.All() {
		s.pool(rt, s.cfg.Network).floor = s.cfg.Floor
	}
	tick := time.NewTicker(stemTick)
	defer tick.Stop()
	for {
		s.refill(ctx)
		select {
		case <-ctx.Done():
			s.loops.Wait()
			s.empty()
			return
		case <-tick.C:
			s.prune()
		case <-s.wake:
		}
	}
}

// get returns a stem: one that is ready, or the next that becomes so, or one that is
// started for the caller, whichever is first.
func (s *stems) get(ctx context.Context, rt runtimes.Runtime, network string) (in *instance, err error) {
	p := s.pool(rt, network)
	result := "miss"
	defer func() { s.metric.claims.WithLabelValues(rt.Root(), network, result).Inc() }()
	s.mu.Lock()
	p.demand.Note(time.Now())
	s.mu.Unlock()
	defer s.poke()
	for {
		select {
		case in = <-p.ready:
			if s.claim(in) {
				result = "hit"
				return in, nil
			}
			continue
		default:
		}
		select {
		case in = <-p.ready:
			if s.claim(in) {
				return in, nil
			}
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
			return s.launch.stem(ctx, newInstanceID(), rt, network)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
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
	select {
	case <-in.container.Exited():
		s.discard(in)
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
		p = &stemPool{runtime: rt, network: network, ready: make(chan *instance, s.cfg.Ceiling)}
		if len(s.pools) < maxStemKinds {
			s.pools[kind] = p
		}
	}
	return p
}

func (s *stems) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// refill starts what is missing, as far as slots and memory go.
func (s *stems) refill(ctx context.Context) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		want := p.demand.Target(now, p.floor, s.cfg.Ceiling) - len(p.ready) - p.starting
		for ; want > 0 && now.After(p.notUntil) && ctx.Err() == nil; want-- {
			if s.held+p.runtime.StemBytes > s.cfg.BudgetBytes {
				break
			}
			select {
			case s.slots <- struct{}{}:
			default:
				return // the next one that ends wakes us
			}
			p.starting++
			s.held += p.runtime.StemBytes
			s.loops.Go(func() { s.start(ctx, p) })
		}
	}
}

// start makes one stem for a pool.
func (s *stems) start(ctx context.Context, p *stemPool) {
	in, err := s.launch.stem(ctx, newInstanceID(), p.runtime, p.network)
	<-s.slots
	s.mu.Lock()
	p.starting--
	if err != nil {
		s.held -= p.runtime.StemBytes
		p.backoff = min(max(2*p.backoff, stemBackoffFirst), stemBackoffLast)
		p.notUntil = time.Now().Add(p.backoff)
	} else {
		p.backoff = 0
	}
	s.mu.Unlock()
	switch {
	case err != nil && ctx.Err() == nil:
		s.log.Warn("no stem", "root", p.runtime.Root(), "network", p.network, telemetry.KeyError, err)
	case err == nil:
		s.offer(p, in)
	}
	s.poke()
}

// offer puts a stem into its pool, or removes it when that is full.
func (s *stems) offer(p *stemPool, in *instance) {
	select {
	case p.ready <- in:
	default:
		s.mu.Lock()
		s.held -= in.runtime.StemBytes
		s.mu.Unlock()
		s.discard(in)
	}
}

// prune removes stems that died, and one at a time those that are too many.
func (s *stems) prune() {
	now := time.Now()
	s.mu.Lock()
	pools := make(map[*stemPool]int, len(s.pools))
	for _, p := range s.pools {
		pools[p] = p.demand.Target(now, p.floor, s.cfg.Ceiling)
	}
	s.mu.Unlock()
	for p, target := range pools {
		surplus := len(p.ready) > target
		for range len(p.ready) {
			select {
			case in := <-p.ready:
				switch {
				case !s.claim(in):
				case surplus:
					surplus = false
					s.discard(in)
				default:
					s.mu.Lock()
					s.held += in.runtime.StemBytes
					s.mu.Unlock()
					s.offer(p, in)
				}
			default:
			}
		}
	}
}

// empty removes all stems.
func (s *stems) empty() {
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

func (s *stems) discard(in *instance) {
	if err := in.destroy(context.Background()); err != nil {
		s.log.Error("stem not removed whole; the next start removes the rest",
			telemetry.KeyInstance, string(in.id), telemetry.KeyError, err)
	}
}
