package main

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

func TestAnswered(t *testing.T) {
	lost := time.Unix(1000, 0)
	after := func(d time.Duration, status int) ending { return ending{status, lost.Add(d)} }
	got, err := answered([]ending{
		after(4*time.Second, http.StatusOK), after(2*time.Second, http.StatusBadGateway), after(3*time.Second, 0),
	}, lost)
	if want := []time.Duration{2 * time.Second, 3 * time.Second}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v: a call that succeeded ran elsewhere", got, err, want)
	}
	for _, status := range []int{0, http.StatusOK, http.StatusTooManyRequests} {
		if got, err := answered([]ending{after(-time.Millisecond, status)}, lost); err == nil {
			t.Errorf("a call with status %d ended before the loss and counts: %v", status, got)
		}
	}
}

// An event's attempt begins at its worker long before it runs anywhere.
func TestRanAgain(t *testing.T) {
	lost := time.Unix(1000, 0)
	for _, test := range []struct {
		name       string
		began, ran time.Duration // the run, from the loss
		want       time.Duration
		again      bool
	}{
		{"elsewhere", 2500 * time.Millisecond, holdFor, 2500 * time.Millisecond, true},
		{"where nothing was lost", -time.Second, holdFor, -time.Second, false},
	} {
		rec := wire.Record{
			StartedAt: lost.Add(100 * time.Millisecond), EndedAt: lost.Add(test.began + test.ran), RunMicros: test.ran.Microseconds(),
		}
		if got, again := ranAgain(rec, lost); got != test.want || again != test.again {
			t.Errorf("%s: %s, %v; want %s, %v", test.name, got, again, test.want, test.again)
		}
	}
}

func TestRefusal(t *testing.T) {
	for _, test := range []struct {
		reply wire.PlaceReply
		ok    bool
	}{
		{wire.PlaceReply{Node: "n", Lease: "l"}, true},
		{wire.PlaceReply{Error: wire.Errorf(wire.CodeNoCapacity, "no node")}, false},
		{wire.PlaceReply{}, false},
	} {
		data, err := json.Marshal(test.reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := refusal(data); (err == nil) != test.ok {
			t.Errorf("%s: %v", data, err)
		}
	}
	if refusal([]byte("{")) == nil {
		t.Error("half an answer counts")
	}
}

func TestPrint(t *testing.T) {
	r := &recovery{took: map[string][]time.Duration{}, failed: map[string]int{leaderKilled: 3}}
	for _, loss := range losses {
		for _, row := range loss.rows {
			for _, millis := range []int{400, 100, 200, 300} {
				r.note(row.until, time.Duration(millis)*time.Millisecond)
			}
		}
	}
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(out.String(), "| "+leaderKilled)
	line, _, _ = strings.Cut(line, "\n")
	var cells []string
	for cell := range strings.SplitSeq(line, "|") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	if want := []string{"", untilPlaced, "4", "250 ms", "400 ms", "3 s", "3", ""}; !slices.Equal(cells, want) {
		t.Errorf("%q, want %q", cells, want)
	}
	delete(r.took, untilRerun)
	if err := r.print(&out); err == nil {
		t.Error("a row without figures is no mistake")
	}
}

func TestFlags(t *testing.T) {
	for _, args := range []string{"-n=0", "-n=x", "node"} {
		if err := run(t.Context(), []string{args}, io.Discard); err == nil {
			t.Errorf("%s is taken", args)
		}
	}
}
