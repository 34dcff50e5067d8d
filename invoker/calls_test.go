package invoker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// gateways plays those of a NATS server that one node has for itself. answer says what
// becomes of a call; nil for nothing any more.
func gateways(t *testing.T, answer func(req wire.CallRequest, body []byte) (*wire.CallReply, []byte)) (over option, conn *bus.Conn) {
	t.Helper()
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir()}, quiet())
	must(t, err)
	t.Cleanup(server.Stop)
	connect := func() *bus.Conn {
		c, err := bus.Connect(bus.Config{Name: "calls", InProcess: server}, quiet())
		must(t, err)
		t.Cleanup(c.Close)
		return c
	}
	conn, own := connect(), connect()
	if answer != nil {
		_, err = conn.Subscribe(wire.CallSubject, wire.CallGroup, func(m bus.Msg) { playGateway(t, conn, m, answer) })
		must(t, err)
	}
	return func(_ *Config, d *Deps) { d.Conn = own }, conn
}

func playGateway(t *testing.T, conn *bus.Conn, m bus.Msg, answer func(req wire.CallRequest, body []byte) (*wire.CallReply, []byte)) {
	var req wire.CallRequest
	body, err := wire.ParseFrame(m.Data, &req)
	if err != nil {
		t.Error(err)
		return
	}
	say := func(r wire.CallReply, body []byte) []byte {
		r.ID = req.ID
		frame, err := wire.AppendFrame(nil, r, body)
		if err != nil {
			t.Error(err)
		}
		return frame
	}
	if err := m.Respond(say(wire.CallReply{}, nil)); err != nil {
		t.Error(err)
	}
	reply, result := answer(req, body)
	if reply == nil {
		return
	}
	for _, frame := range [][]byte{say(wire.CallReply{Beat: true}, nil), say(*reply, result)} {
		if err := conn.Publish(wire.NodeCallSubject(req.Node), frame); err != nil {
			t.Error(err)
		}
	}
}

// caller plays a function that posts its event to the path that it begins with, and
// answers with what came of it.
func caller(p *process, _ string, event []byte) ([]byte, error) {
	path, body, _ := bytes.Cut(event, []byte(" "))
	request, err := http.NewRequestWithContext(p.ctx, http.MethodPost, "http://runtime/dayfly/v1/"+string(path), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(fmt.Sprintf("%d %s", response.StatusCode, data))
}

// came is what the caller says of its call.
func (n *node) came(a answer) (status int, body string) {
	n.tb.Helper()
	var text string
	if a.Error != nil {
		n.tb.Fatal(a.Error)
	}
	must(n.tb, json.Unmarshal(a.body, &text))
	_, err := fmt.Sscan(text, &status)
	must(n.tb, err)
	return status, text[4:]
}

// callOver runs an event on the node, over the NATS server that it has for itself.
func (n *node) callOver(conn *bus.Conn, req wire.InvokeRequest, event string) answer {
	n.tb.Helper()
	req.Invocation, req.Lease = newInvocation(), newLease()
	frame, err := wire.AppendFrame(nil, req, []byte(event))
	must(n.tb, err)
	data, err := conn.Request(n.tb.Context(), wire.NodeInvokeSubject(n.id), frame)
	must(n.tb, err)
	var a answer
	a.body, err = wire.ParseFrame(data, &a.InvokeReply)
	must(n.tb, err)
	return a
}

// patient functions may run for a minute.
func patient(s *functions.Spec) { s.TimeoutMillis = 60_000 }

func TestCallsGoToAGateway(t *testing.T) {
	requests := make(chan wire.CallRequest, 1)
	over, conn := gateways(t, func(req wire.CallRequest, body []byte) (*wire.CallReply, []byte) {
		requests <- req
		if string(body) == `"fail"` {
			return &wire.CallReply{Error: &wire.Error{Code: wire.CodeFunctionError, Message: "no"}}, nil
		}
		return &wire.CallReply{Invocation: "called", ContentType: "application/json"}, body
	})
	n := startNode(t, each(caller), over)
	v := n.deploy(patient)
	for _, test := range []struct {
		event  string
		status int
		body   string
		want   wire.CallRequest
	}{
		{`invoke/resize:7 {"a":1}`, 200, `{"a":1}`, wire.CallRequest{Ref: "resize:7"}},
		{`invoke/resize "fail"`, 502, "no", wire.CallRequest{Ref: "resize"}},
		{`invoke/resize?async=true 1`, 202, `{"id":"called"}`, wire.CallRequest{Ref: "resize", Async: true}},
		{`publish/orders.created 1`, 202, `OK`, wire.CallRequest{Subject: "orders.created"}},
	} {
		status, body := n.came(n.callOver(conn, wire.InvokeRequest{Version: v, Depth: 4}, test.event))
		got := embedtest.Receive(t, requests)
		if got.PatienceMillis <= 0 || got.PatienceMillis > 60_000 || got.Cause == "" || got.ID == "" {
			t.Errorf("%s asks %+v", test.event, got)
		}
		test.want.ID, test.want.Cause, test.want.PatienceMillis = got.ID, got.Cause, got.PatienceMillis
		test.want.Node, test.want.Caller, test.want.Depth = n.id, v, 5
		if got != test.want || status != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s: %d %s, asked %+v; want %+v", test.event, status, body, got, test.want)
		}
	}
}

func TestLargeCallsGoThroughS3(t *testing.T) {
	large := `"` + strings.Repeat("x", 2<<20) + `"`
	keys := make(chan string, 1)
	over, conn := gateways(t, func(req wire.CallRequest, body []byte) (*wire.CallReply, []byte) {
		keys <- req.PayloadKey
		event, err := shared.store.GetBytes(t.Context(), req.PayloadKey, wire.MaxEvent)
		if err != nil || len(body) != 0 {
			t.Errorf("%d bytes in the message, %v", len(body), err)
		}
		key := wire.ResponseKey(req.ID)
		if err := shared.store.PutBytes(t.Context(), key, event, "application/json"); err != nil {
			t.Error(err)
		}
		return &wire.CallReply{Invocation: "called", ContentType: "application/json", PayloadKey: key}, nil
	})
	n := startNode(t, each(func(p *process, id string, event []byte) ([]byte, error) {
		result, err := caller(p, id, []byte("invoke/x "+large))
		return fmt.Appendf(nil, "%d", len(result)), err
	}), over)
	a := n.callOver(conn, wire.InvokeRequest{Version: n.deploy()}, `1`)
	if want := fmt.Sprint(len(large) + len(`"200 "`) + 2); string(a.body) != want { // its two quotes are escaped
		t.Errorf("got %s, want %s: %v", a.body, want, a.Error)
	}
	key := embedtest.Receive(t, keys)
	for _, left := range []string{key, strings.Replace(key, "/request", "/response", 1)} {
		embedtest.Eventually(t, left+" is removed", func() bool {
			_, err := shared.store.Get(t.Context(), left)
			return errors.Is(err, blob.ErrNotFound)
		})
	}
}

// TestLargeMessages: they are refused, for listeners of NATS read no claim checks.
func TestLargeMessages(t *testing.T) {
	over, conn := gateways(t, nil)
	n := startNode(t, each(func(p *process, id string, _ []byte) ([]byte, error) {
		return caller(p, id, []byte("publish/x "+strings.Repeat("x", 2<<20)))
	}), over)
	status, body := n.came(n.callOver(conn, wire.InvokeRequest{Version: n.deploy()}, `1`))
	if status != http.StatusRequestEntityTooLarge || !strings.Contains(body, "put large data into S3 and publish its key") {
		t.Errorf("got %d %s", status, body)
	}
}

func TestLostGateways(t *testing.T) {
	t.Parallel()
	over, conn := gateways(t, nil)
	n := startNode(t, each(caller), over)
	v := n.deploy(patient)
	wantProblem := func(retryable bool, text string) {
		t.Helper()
		status, body := n.came(n.callOver(conn, wire.InvokeRequest{Version: v}, `invoke/x 1`))
		var p wire.Problem
		must(t, json.Unmarshal([]byte(body), &p))
		if status != http.StatusServiceUnavailable || p.Code != wire.CodeUnavailable || p.Retryable != retryable || !strings.Contains(p.Detail, text) {
			t.Errorf("got %d %s", status, body)
		}
	}
	wantProblem(true, "no gateway answers")
	sub, err := conn.Subscribe(wire.CallSubject, wire.CallGroup, func(m bus.Msg) {
		playGateway(t, conn, m, func(wire.CallRequest, []byte) (*wire.CallReply, []byte) { return nil, nil })
	})
	must(t, err)
	wantProblem(false, "the gateway was lost with the call, which may have run")
	sub.Stop(conn)
	_, err = conn.Subscribe(wire.CallSubject, wire.CallGroup, func(m bus.Msg) {
		busy := wire.CallReply{Error: wire.Errorf(wire.CodeUnavailable, "the gateway is being stopped")}
		frame, err := wire.AppendFrame(nil, busy, nil)
		if err == nil {
			err = m.Respond(frame)
		}
		if err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	wantProblem(true, "being stopped")
}

// TestAnswersToUnknownCalls: what comes late, or from another run, disturbs nobody.
func TestAnswersToUnknownCalls(t *testing.T) {
	var a answers
	a.heard(callAnswer{reply: wire.CallReply{ID: "unknown"}})
	id := wire.InvocationID(uuid.NewString())
	came, end := a.expect(id)
	a.heard(callAnswer{reply: wire.CallReply{ID: id, Beat: true}})
	a.heard(callAnswer{reply: wire.CallReply{ID: id, Invocation: "done"}})
	if got := <-came; got.reply.Beat || got.reply.Invocation != "done" {
		t.Errorf("got %+v", got.reply)
	}
	end()
	a.heard(callAnswer{reply: wire.CallReply{ID: id}})
	select {
	case got := <-came:
		t.Errorf("after its end it hears %+v", got)
	default:
	}
}
