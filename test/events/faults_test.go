package events_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// eventsVariable and seedVariable change a run: how many events it has, and which
	// process is killed when.
	eventsVariable, seedVariable = "DAYFLY_FAULT_EVENTS", "DAYFLY_FAULT_SEED"

	perSecond   = 120
	shortEvents = 1500
	// calmEvents are sent before the first kill: what happens to them is nobody's fault.
	calmEvents = 150
	// eventsPerRound is how many events are sent while each role is killed once.
	eventsPerRound = 600
	// failEvery makes one event in so many fail whenever it runs.
	failEvery = 101
	// senders is how many events may be on their way to the gateway.
	senders = 32
	// drainBound is how long all may take to end once nobody is killed any more.
	drainBound = 2 * time.Minute
)

// victims are the roles that are killed.
var victims = []string{"gateway", "events", "scheduler", childNode, childNATS}

// death is one kill.
type death struct {
	role, name string
	at         time.Time
}

// sent is an event whose ID a client got with a 202.
type sent struct {
	order order
	id    wire.InvocationID
	key   string
	calm  bool
}

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s is no number", variable, text)
	}
	return n
}

// TestFaults: events are accepted at a steady rate while the gateway, an events worker,
// the scheduler, a node and NATS are killed, over and over. Each one whose client got
// a 202 has run, or is dead with a reason; none is lost.
func TestFaults(t *testing.T) {
	total := int(number(t, eventsVariable, shortEvents)) //nolint:gosec // a small number
	seed := number(t, seedVariable, uint64(time.Now().UnixNano()))
	t.Logf("%d events; %s=%d kills the same processes again", total, seedVariable, seed)
	p := start(t, 2)
	f := p.deploy("fault", func(s *functions.Spec) { s.Retry.Attempts = 5 })
	all := p.sendAll("fault", 0, calmEvents)
	p.awaitAll(all)
	for i := range all {
		all[i].calm = true
	}
	killed := make(chan []death, 1)
	go func() { killed <- p.killAll(rand.New(rand.NewPCG(seed, 0)), total-calmEvents) }() //nolint:gosec // it must be the same again
	all = append(all, p.sendAll("fault", calmEvents, total)...)
	deaths := <-killed
	begun := time.Now()
	records := p.awaitAll(all)
	t.Logf("all were over %.1f s after the last one was sent", time.Since(begun).Seconds())
	if len(all) != total {
		t.Fatalf("%d of %d events were accepted", len(all), total)
	}
	c := newCensus(p, f, deaths)
	c.count(all, records)
	p.repeat(all)
}

// sendAll sends the events from one number up to another at a steady rate, each until it
// is accepted.
func (p *platform) sendAll(name string, from, to int) (all []sent) {
	due := make(chan int, to-from)
	go func() {
		defer close(due)
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for n := from; n < to; n++ {
			select {
			case <-tick.C:
				due <- n
			case <-p.t.Context().Done():
				return
			}
		}
	}()
	var mu sync.Mutex
	var group sync.WaitGroup
	for range senders {
		group.Go(func() {
			for n := range due {
				s, err := p.sendOne(name, n)
				if err != nil {
					p.t.Errorf("event %d: %v", n, err)
					return
				}
				mu.Lock()
				all = append(all, s)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return all
}

// sendOne sends an event until it is accepted. Even ones have a key, so that a repeat
// is the same event; a repeat of the others is another event.
func (p *platform) sendOne(name string, n int) (s sent, err error) {
	s.order = order{N: n, Fails: n%failEvery == failEvery-1, Millis: 5 + n%20}
	if n%2 == 0 {
		s.key = fmt.Sprintf("key-%d", n)
	}
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		var event []byte
		if event, err = json.Marshal(s.order); err != nil {
			return s, err
		}
		if s.id, err = p.send(name, s.key, event); err == nil {
			return s, nil
		}
		if no, ok := errors.AsType[problem](err); ok && no.Status < 500 && no.Status != 429 {
			return s, err // no fault excuses that
		}
		if s.key == "" {
			s.order.Try++
		}
		pause(restartAfter / 2)
	}
	return s, err
}

// killAll kills the roles in rounds, each once in a round, in random order at random
// moments, for about as long as sending so many events takes.
func (p *platform) killAll(random *rand.Rand, events int) (deaths []death) {
	mean := time.Second * eventsPerRound / perSecond / time.Duration(len(victims))
	for range max(2, events/eventsPerRound) {
		for _, i := range random.Perm(len(victims)) {
			pause(mean/2 + time.Duration(random.Int64N(int64(mean))))
			role := victims[i]
			of := p.processes[role]
			victim := of[random.IntN(len(of))]
			if victim.kill() {
				deaths = append(deaths, death{role, victim.name, time.Now()})
			}
		}
	}
	return deaths
}

// awaitAll waits until all events are over and returns their records.
func (p *platform) awaitAll(all []sent) map[wire.InvocationID]wire.Record {
	p.t.Helper()
	until := time.Now().Add(drainBound)
	records := make(map[wire.InvocationID]wire.Record, len(all))
	var mu sync.Mutex
	var group sync.WaitGroup
	next := make(chan sent)
	for range senders {
		group.Go(func() {
			for s := range next {
				r, err := p.final(s.id, until)
				if err != nil {
					p.t.Errorf("event %d, %s: %v", s.order.N, s.id, err)
				}
				mu.Lock()
				records[s.id] = r
				mu.Unlock()
			}
		})
	}
	for _, s := range all {
		next <- s
	}
	close(next)
	group.Wait()
	p.awaitEmpty(time.Until(until))
	return records
}

// repeat sends some events with a key again: they are known.
func (p *platform) repeat(all []sent) {
	p.t.Helper()
	before, n := len(p.runs()), 0
	for _, s := range all {
		if s.key == "" || s.order.N%50 != 0 {
			continue
		}
		n++
		event, err := json.Marshal(s.order)
		must(p.t, err)
		if id, err := p.send("fault", s.key, event); err != nil || id != s.id {
			p.t.Errorf("the repeat of %s is %s: %v", s.id, id, err)
		}
	}
	if queued, err := p.queued(); err != nil || len(queued) > 0 || len(p.runs()) != before {
		p.t.Errorf("%d repeats made events %v and %d runs: %v", n, queued, len(p.runs())-before, err)
	}
	p.t.Logf("%d repeats under their keys got the first IDs", n)
}
