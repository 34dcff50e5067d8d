package roster_test

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

const tick = wire.NodeLostAfter / 8

func TestSpan(t *testing.T) {
	var s roster.Span
	if !s.LostBefore().IsZero() {
		t.Error("somebody is lost before anything was heard")
	}
	for i, c := range []struct{ at, from, to, lostBefore time.Duration }{
		{at: 0, from: 0, to: 0, lostBefore: -1},
		{at: 4 * tick, from: 0, to: 4 * tick, lostBefore: -1}, // a little late
		{at: 3 * tick, from: 0, to: 4 * tick, lostBefore: -1},
		{at: 8*tick - 1, from: 0, to: 8*tick - 1, lostBefore: -1},
		{at: 8 * tick, from: 0, to: 8 * tick, lostBefore: 0},
		{at: 12 * tick, from: 0, to: 12 * tick, lostBefore: 4 * tick},
		{at: 16*tick + 1, from: 16*tick + 1, to: 16*tick + 1, lostBefore: -1},
	} {
		s = s.Extend(begin.Add(c.at))
		want := time.Time{}
		if c.lostBefore >= 0 {
			want = begin.Add(c.lostBefore)
		}
		if s != (roster.Span{From: begin.Add(c.from), To: begin.Add(c.to)}) || !s.LostBefore().Equal(want) {
			t.Errorf("moment %d: %+v, lost before %s", i, s, s.LostBefore())
		}
	}
}

func TestSpansTogether(t *testing.T) {
	span := func(from, to time.Duration) roster.Span {
		return roster.Span{From: begin.Add(from), To: begin.Add(to)}
	}
	for _, c := range []struct{ a, b, want roster.Span }{
		{span(0, 8*tick), span(tick, 9*tick), span(tick, 8*tick)},
		{span(0, 9*tick), span(tick, 8*tick), span(tick, 8*tick)},
		{span(0, 20*tick), span(14*tick, 20*tick), span(14*tick, 20*tick)},
	} {
		if got, back := c.a.And(c.b), c.b.And(c.a); got != c.want || back != c.want {
			t.Errorf("%+v and %+v: %+v, %+v", c.a, c.b, got, back)
		}
	}
	if late := span(0, 20*tick).And(span(19*tick, 40*tick)); !late.LostBefore().IsZero() {
		t.Error("somebody is lost in a time that is too short")
	}
}

// What waits to be handled delays what is known, and makes nobody silent; what was lost
// ends it.
func TestHearing(t *testing.T) {
	var h roster.Hearing
	handle := func(n int) {
		for range n {
			h.Heard()
		}
	}
	for i, look := range []struct {
		handled       int // before the look
		at            time.Duration
		waiting, lost int
		from, to      time.Duration
	}{
		{at: 0},
		{handled: 3, at: tick, waiting: 0, to: tick},
		{handled: 1, at: 2 * tick, waiting: 2, to: tick},
		{handled: 1, at: 3 * tick, waiting: 9, to: tick},
		{handled: 1, at: 4 * tick, waiting: 9, to: 2 * tick},
		{handled: 7, at: 5 * tick, waiting: 8, to: 2 * tick},
		{handled: 1, at: 6 * tick, waiting: 7, to: 3 * tick},
		{handled: 7, at: 7 * tick, to: 7 * tick},
		{handled: 1, at: 8 * tick, waiting: 1, lost: 1, to: 7 * tick},
		{handled: 1, at: 9 * tick, waiting: 1, lost: 1, from: 8 * tick, to: 8 * tick},
		{handled: 1, at: 10 * tick, lost: 1, from: 8 * tick, to: 10 * tick},
		{at: 15 * tick, lost: 1, from: 15 * tick, to: 15 * tick},
	} {
		handle(look.handled)
		got := h.LookAt(begin.Add(look.at), look.waiting, look.lost)
		if want := (roster.Span{From: begin.Add(look.from), To: begin.Add(look.to)}); got != want {
			t.Errorf("look %d: %s to %s, want %s to %s", i, got.From.Sub(begin), got.To.Sub(begin), look.from, look.to)
		}
	}
}

// Whatever the backlog: nobody who spoke in time is ever lost, and who fell silent is,
// once all is handled.
func TestHearingProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h roster.Hearing
		now := begin
		var queue []string // nodes that spoke, not handled yet
		heard := map[string]time.Time{"a": now, "b": now}
		silent := rapid.IntRange(0, 60).Draw(t, "b speaks for")
		for beat := range 100 {
			queue = append(queue, "a")
			if beat < silent {
				queue = append(queue, "b")
			}
			for range rapid.IntRange(0, 4).Draw(t, "handled") {
				if len(queue) > 0 {
					heard[queue[0]] = now
					queue = queue[1:]
					h.Heard()
				}
			}
			now = now.Add(tick)
			before := h.LookAt(now, len(queue), 0).LostBefore()
			if heard["a"].Before(before) || beat < silent && heard["b"].Before(before) {
				t.Fatalf("at beat %d a node is lost that spoke", beat)
			}
		}
		for range queue {
			h.Heard()
		}
		for range 24 {
			now = now.Add(tick)
			heard["a"] = now
			h.Heard()
			if before := h.LookAt(now, 0, 0).LostBefore(); heard["a"].Before(before) {
				t.Fatal("a node is lost that spoke")
			} else if since := now.Sub(heard["b"]); since > 2*wire.NodeLostAfter && !heard["b"].Before(before) {
				t.Fatalf("who is silent since %s is not lost", since)
			}
		}
	})
}

// A look at a real subscription: while its handler hangs, nothing that comes is heard.
func TestHearingOfASubscription(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	conn, other := embedtest.Connect(t, server), embedtest.Connect(t, server)
	var h roster.Hearing
	hang := make(chan struct{})
	sub, err := conn.Subscribe("words", "", func(bus.Msg) { <-hang; h.Heard() })
	if err != nil {
		t.Fatal(err)
	}
	look := func() time.Time { return h.Look(t.Context(), conn, sub).To }
	embedtest.Eventually(t, "all is heard", func() bool { return !look().IsZero() })
	if err := other.Publish("words", nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := other.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	said := time.Now()
	for range 10 {
		if look().After(said) {
			t.Fatal("all is heard while a word waits")
		}
	}
	close(hang)
	embedtest.Eventually(t, "all is heard again", func() bool { return look().After(said) })
	sub.Stop(conn)
	if last := look(); look() != last {
		t.Error("without a subscription something is heard")
	}
}
