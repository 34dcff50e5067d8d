package scheduler

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// TestAnswersOnlyWhileItHolds asks through real NATS for one answer in a reign
// that has lapsed, as after a pause of the process, and one in a reign that holds.
func TestAnswersOnlyWhileItHolds(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir()}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	conn, err := bus.Connect(bus.Config{InProcess: server}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := New(Config{}, Deps{Conn: conn, Metrics: prometheus.NewRegistry(), Log: log})
	if _, err := s.nodes.report(stateOf("a", "r", 1), time.Now()); err != nil {
		t.Fatal(err)
	}
	lapsed, holding := &reign{epoch: 7, began: time.Now()}, &reign{epoch: 8, began: time.Now()}
	holding.extend(time.Now().Add(time.Minute))

	// Both hear every request, the one whose time is over first.
	heard := make(chan struct{}, 1)
	for _, r := range []*reign{lapsed, holding} {
		sub, err := conn.Subscribe("test.place", "", func(m bus.Msg) {
			if r == holding {
				<-heard
			}
			s.answer(r, m)
			if r == lapsed {
				heard <- struct{}{}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Stop(conn)
	}
	several := oneInstance()
	several.Needs.Instances = 7
	request, err := json.Marshal(several)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, err := conn.Request(ctx, "test.place", request)
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.PlaceReply
	if err := json.Unmarshal(answer, &reply); err != nil || reply.Epoch != holding.epoch {
		t.Errorf("answer %s (%v), want epoch %d", answer, err, holding.epoch)
	}
	if leases := s.census().leases; leases != 1 {
		t.Errorf("%d leases, want that of the answer only", leases)
	}
	if n, _ := s.nodes.snapshot.Node("a"); n.Reserved.Instances != 1 {
		t.Errorf("%d instances reserved; an answer is for one", n.Reserved.Instances)
	}
}

// TestRequestsOfOtherProtocols are refused with what to do, those of the releases next to
// ours are not.
func TestRequestsOfOtherProtocols(t *testing.T) {
	for protocol, want := range map[int]bool{0: false, wire.Protocol: true, wire.Protocol + 1: true, wire.Protocol + 2: false, -1: false} {
		r := oneInstance()
		r.Protocol = protocol
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		switch _, refused := parseRequest(data); {
		case want && refused != nil:
			t.Errorf("protocol %d: %v", protocol, refused)
		case !want && (refused == nil || refused.Code != wire.CodeInvalid || !strings.Contains(refused.Message, "upgrade")):
			t.Errorf("protocol %d: %v", protocol, refused)
		}
	}
}
