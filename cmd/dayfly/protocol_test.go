package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// TestRolesOfOtherProtocolsDoNotStart: a role that meets one that it does not understand
// ends at once and says which one, and what to do.
func TestRolesOfOtherProtocolsDoNotStart(t *testing.T) {
	t.Setenv("DAYFLY_LOG_LEVEL", "error")
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	// All of 127.0.0.0/8 is this machine; nobody else uses this address.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	conn := embedtest.Connect(t, server)
	data, err := json.Marshal(wire.RoleState{Role: "gateway", Host: "h1", Build: "v9", Protocol: wire.Protocol + 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Subscribe(wire.RoleProtocolSubject, wire.RoleProtocolGroup(wire.Protocol+2), func(m bus.Msg) {
		if err := m.Respond(data); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	why := fmt.Sprintf("the gateway on h1 runs Dayfly v9 with protocol %d, too new", wire.Protocol+2)
	embedtest.Eventually(t, "the role does not start", func() bool { // the other one's answer may be late
		starting, cancel := context.WithCancel(t.Context())
		defer cancel()
		started := make(chan error, 1)
		go func() {
			started <- execute(starting, "scheduler", "--nats", server.URL(), "--listen", host+":8081")
		}()
		embedtest.Eventually(t, "the role is up or has ended", func() bool {
			answer, err := http.Get("http://" + host + ":8081/readyz")
			up := err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
			return up || len(started) == 1
		})
		cancel()
		err := embedtest.Receive(t, started)
		return wire.HasCode(err, wire.CodeInvalid) && strings.Contains(err.Error(), why)
	})
}
