package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// TestFollowLogsGoesOn: whatever ends the stream, it is opened again behind the last
// entry.
func TestFollowLogsGoesOn(t *testing.T) {
	var requests atomic.Int64
	var queries []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := requests.Add(1)
		queries = append(queries, r.URL.RawQuery)
		switch n {
		case 1: // an orderly end
			stream(w, `{"text":"one","sequence":4}`+"\n")
		case 2: // nobody there
			writeProblem(w, wire.Errorf(wire.CodeUnavailable, "the gateway is stopping"), "")
		case 3: // broken in a line
			stream(w, `{"text":"two","sequence":9}`+"\n", `{"te`)
			panic(http.ErrAbortHandler)
		default:
			stream(w, `{"text":"three","sequence":12}`+"\n")
		}
	})
	var texts []string
	var losses []bool
	for entry, err := range c.FollowLogs(t.Context(), "x", client.LogOptions{Tail: 5, Level: wire.LevelWarn}, func(err error) { losses = append(losses, err != nil) }) {
		if err != nil {
			t.Fatal(err)
		}
		if texts = append(texts, entry.Text); len(texts) == 3 {
			break
		}
	}
	if !slices.Equal(texts, []string{"one", "two", "three"}) || !slices.Equal(losses, []bool{false, true, true}) {
		t.Errorf("got %q, losses %v", texts, losses)
	}
	if queries[0] != "follow=true&level=warn&tail=5" {
		t.Errorf("the first asks %s", queries[0])
	}
	for n, after := range map[int]int{1: 4, 2: 4, 3: 9} {
		if want := fmt.Sprintf("after=%d&", after); queries[n][:len(want)] != want {
			t.Errorf("request %d asks %s, want %s", n, queries[n], want)
		}
	}
}

// TestFollowLogsFromTheBeginning: where no entry came, it goes on from the moment at
// which it began.
func TestFollowLogsFromTheBeginning(t *testing.T) {
	began := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	var queries []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		w.Header().Set("Date", began.Add(time.Duration(len(queries)-1)*time.Minute).Format(http.TimeFormat))
		if len(queries) < 3 {
			stream(w)
			return
		}
		stream(w, `{"text":"one","sequence":4}`+"\n")
	})
	for _, err := range c.FollowLogs(t.Context(), "x", client.LogOptions{Tail: -1}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	again := "follow=true&since=2026-05-01T12%3A00%3A00Z&tail=10000"
	if diff := cmp.Diff([]string{"follow=true&tail=0", again, again}, queries); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestFollowLogsEnds: with what cannot pass, and with its context.
func TestFollowLogsEnds(t *testing.T) {
	follow := func(ctx context.Context, c *client.Client, each func()) (last error) {
		for _, err := range c.FollowLogs(ctx, "x", client.LogOptions{}, nil) {
			if last = err; err == nil {
				each()
			}
		}
		return last
	}
	first := true
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if first {
			first = false
			stream(w, `{"text":"one","sequence":4}`+"\n")
			return
		}
		writeProblem(w, wire.Errorf(wire.CodeNotFound, "it was deleted"), "")
	})
	if err := follow(t.Context(), c, func() {}); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("deleted: %v", err)
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, wire.Errorf(wire.CodeUnavailable, "starting"), "")
	})
	if err := follow(t.Context(), c, func() {}); !wire.HasCode(err, wire.CodeUnavailable) {
		t.Errorf("never open: %v", err)
	}
	c = serve(t, func(w http.ResponseWriter, r *http.Request) {
		stream(w, `{"text":"one","sequence":4}`+"\n")
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := follow(ctx, c, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
