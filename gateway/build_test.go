package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// builders subscribes a double that answers its nth request, from 1 on, with pieces.
func (w *world) builders(answer func(n int) []wire.BuildProgress) {
	w.t.Helper()
	n := 0 // requests come one at a time
	_, err := w.conn.Subscribe(wire.BuildSubject, wire.BuildGroup, func(m bus.Msg) {
		n++
		for _, piece := range answer(n) {
			data, err := json.Marshal(piece)
			if err == nil {
				err = m.Respond(data)
			}
			if err != nil {
				w.t.Error(err)
			}
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func built() *wire.BuildReply { return &wire.BuildReply{CodeBytes: 7} }

// TestBuildLog: what a build prints comes as it goes.
func TestBuildLog(t *testing.T) {
	w := newWorld(t)
	w.builders(func(int) []wire.BuildProgress {
		return []wire.BuildProgress{{}, {Log: "one\n"}, {}, {Log: "two\n"}, {Log: "three\n", Reply: built()}}
	})
	var log string
	reply, err := w.build(t.Context(), wire.BuildRequest{}, func(text string) { log += text + "|" })
	if err != nil || reply.CodeBytes != 7 || log != "one\n|two\n|three\n|" {
		t.Errorf("%+v, %v, log %q", reply, err, log)
	}
}

// TestBuildGoesToAnother: when one has no room, or falls silent with it.
func TestBuildGoesToAnother(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first []wire.BuildProgress
		log   string
	}{
		"no room": {[]wire.BuildProgress{{Again: true}}, "fine\n"},
		"stops":   {[]wire.BuildProgress{{}, {Log: "half\n"}, {Again: true}}, "half\nfine\n"},
		"dies":    {[]wire.BuildProgress{{}, {Log: "half\n"}}, "half\n\n[dayfly: the builder was lost; another one begins anew]\nfine\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.builders(func(n int) []wire.BuildProgress {
				if n == 1 {
					return test.first
				}
				return []wire.BuildProgress{{Log: "fine\n"}, {Reply: built()}}
			})
			var log string
			reply, err := w.build(t.Context(), wire.BuildRequest{}, func(text string) { log += text })
			if err != nil || reply.CodeBytes != 7 || log != test.log {
				t.Errorf("%+v, %v, log %q", reply, err, log)
			}
		})
	}
}

// TestBuildThatEndsBuilders: what three of them do not survive is given up.
func TestBuildThatEndsBuilders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.builderLost = 50 * time.Millisecond // they say nothing at all
	asked := make(chan int, 2*maxBuilders)
	w.builders(func(n int) []wire.BuildProgress { asked <- n; return nil })
	_, err := w.build(t.Context(), wire.BuildRequest{}, func(string) {})
	if !wire.HasCode(err, wire.CodeUnavailable) || !strings.Contains(err.Error(), "3 builders fell silent") {
		t.Errorf("error %v", err)
	}
	for n := 1; n <= maxBuilders; n++ {
		if got := embedtest.Receive(t, asked); got != n {
			t.Errorf("asked %d times, want %d", got, n)
		}
	}
}

// TestBuildEndsWithItsCaller, and its builder can hear of it.
func TestBuildEndsWithItsCaller(t *testing.T) {
	w := newWorld(t)
	inbox := make(chan string, 1)
	_, err := w.conn.Subscribe(wire.BuildSubject, wire.BuildGroup, func(m bus.Msg) { inbox <- m.Reply() })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.build(ctx, wire.BuildRequest{}, func(string) {})
		ended <- err
	}()
	to := embedtest.Receive(t, inbox)
	if _, err := w.conn.Request(t.Context(), to, []byte("{}")); err != nil {
		t.Errorf("a beat is not answered: %v", err)
	}
	cancel(errors.New("the caller left"))
	if err := embedtest.Receive(t, ended); !wire.HasCode(err, wire.CodeUnavailable) {
		t.Errorf("ended with %v", err)
	}
	// The gateway has a connection of its own: the server may hear of the beat first.
	embedtest.Eventually(t, "nobody waits for the beats", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.conn.Request(ctx, to, []byte("{}"))
		return errors.Is(err, bus.ErrNoResponders)
	})
}
