package gateway

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestCallsEndWhereTheyBegan: a call that runs while live moves has the answer of the
// version that it began on, and the next one goes to the other.
func TestCallsEndWhereTheyBegan(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	w.deployed(hello)
	w.scheduler(wire.PlaceReply{Node: "n1", Lease: "l1"})
	running, leave := make(chan struct{}), make(chan struct{})
	var answering sync.WaitGroup
	defer answering.Wait()
	_, err := w.conn.Subscribe(wire.NodeInvokeSubject("n1"), "", func(m bus.Msg) {
		answering.Go(func() {
			var req wire.InvokeRequest
			if _, err := wire.ParseFrame(m.Data, &req); err != nil {
				t.Error(err)
			}
			if req.Version.Number == 2 {
				close(running)
				<-leave
			}
			frame, err := wire.AppendFrame(nil, wire.InvokeReply{Node: "n1", Instance: "i1", Spent: true}, []byte(strconv.Itoa(req.Version.Number)))
			if err == nil {
				err = m.Respond(frame)
			}
			if err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	w.alive()
	call := func() *httptest.ResponseRecorder {
		return w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader("{}"))
	}
	first := make(chan *httptest.ResponseRecorder, 1)
	go func() { first <- call() }()
	<-running
	if got := w.ask(http.MethodPost, "/v1/functions/hello/rollback", nil); got.Code != http.StatusOK {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if got := call(); got.Code != http.StatusOK || got.Body.String() != "1" {
		t.Errorf("after the move: %d %s", got.Code, got.Body)
	}
	close(leave)
	if got := embedtest.Receive(t, first); got.Code != http.StatusOK || got.Body.String() != "2" || got.Header().Get(wire.HeaderVersion) != "2" {
		t.Errorf("the call under way: %d %v %s", got.Code, got.Header(), got.Body)
	}
}
