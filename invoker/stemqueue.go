package invoker

import (
	"context"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/runtimes"
)

// refillDelay is how long after it was claimed a stem is replaced: starting a container
// takes a processor for as long as the cold call that the stem was claimed for, and
// would double what that takes.
const refillDelay = 20 * time.Millisecond

// delivery is what one that waits for a stem gets. Its channel holds one.
type delivery struct {
	stem *instance
	err  error
}

// rival is what may be quicker than a stem: a warm instance that becomes free. The
// zero value is none.
type rival struct {
	freed <-chan struct{}  // says that take may give one
	take  func() *instance // nil: there is none after all
}

// get returns a stem: one that is ready, or the next that becomes so. While it waits,
// a rival may come first; then warm is true.
func (s *stems) get(ctx context.Context, rt runtimes.Runtime, network string, r rival) (in *instance, warm bool, err error) {
	p := s.pool(rt, network)
	result := "miss"
	defer func() { s.metric.claims.WithLabelValues(rt.Root(), network, result).Inc() }()
	s.mu.Lock()
	p.demand.Note(time.Now())
	s.mu.Unlock()
	for len(p.ready) > 0 {
		select {
		case in = <-p.ready:
			if s.claim(in) {
				result = "hit"
				time.AfterFunc(refillDelay, s.refill)
				return in, false, nil
			}
		default:
		}
	}
	dead := 0
	for mine := s.join(p); ; {
		s.refill()
		select {
		case got := <-mine:
			if got.err != nil {
				return nil, false, got.err
			}
			if !s.lives(got.stem) {
				if dead++; dead == deliveries {
					return nil, false, errStemEnded
				}
				mine = s.join(p)
				continue
			}
			if r.take != nil {
				if other := r.take(); other != nil {
					s.giveBack(p, got.stem)
					return other, true, nil
				}
			}
			return got.stem, false, nil
		case <-r.freed:
			if other := r.take(); other != nil {
				s.leave(p, mine)
				return other, true, nil
			}
		case <-ctx.Done():
			s.leave(p, mine)
			return nil, false, context.Cause(ctx)
		}
	}
}

// join waits for the next stem of a pool.
func (s *stems) join(p *stemPool) chan delivery {
	mine := make(chan delivery, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case in := <-p.ready: // it came meanwhile
		s.held -= in.runtime.StemBytes
		mine <- delivery{stem: in}
		return mine
	default:
	}
	p.waiters = append(p.waiters, mine)
	s.needy[p] = struct{}{}
	return mine
}

// leave waits no more. What was delivered already is put back.
func (s *stems) leave(p *stemPool, mine chan delivery) {
	s.mu.Lock()
	i := slices.Index(p.waiters, mine)
	if i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
		s.unneedy(p)
	}
	s.mu.Unlock()
	if i >= 0 {
		return
	}
	if got := <-mine; got.stem != nil {
		s.giveBack(p, got.stem)
	}
}

// deliver gives the first one that waits what it waits for, or reports that nobody
// does; s.mu is held.
func (s *stems) deliver(p *stemPool, d delivery) bool {
	if len(p.waiters) == 0 {
		return false
	}
	p.waiters[0] <- d
	p.waiters = slices.Delete(p.waiters, 0, 1)
	s.unneedy(p)
	return true
}

func (s *stems) unneedy(p *stemPool) {
	if len(p.waiters) == 0 {
		delete(s.needy, p)
	}
}

// putBack takes a stem back that was not needed after all.
func (s *stems) putBack(in *instance, rt runtimes.Runtime, network string) {
	s.giveBack(s.pool(rt, network), in)
}

// giveBack puts a stem that was claimed back into its pool.
func (s *stems) giveBack(p *stemPool, in *instance) {
	s.mu.Lock()
	s.held += in.runtime.StemBytes
	taken := s.offer(p, in)
	s.mu.Unlock()
	if !taken {
		s.discardSoon(in)
	}
}
