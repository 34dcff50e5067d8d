package invoker

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// attempt sends an attempt at an accepted event.
func (n *node) attempt(v wire.VersionID, req wire.InvokeRequest, event string) (wire.InvocationID, answer) {
	n.tb.Helper()
	req.Invocation, req.Version, req.Event = newInvocation(), v, true
	a, err := n.send(req, []byte(event))
	must(n.tb, err)
	return req.Invocation, a
}

// cancel asks for the end of an invocation, as a gateway does.
func (n *node) cancel(id wire.InvocationID) {
	n.tb.Helper()
	data, err := json.Marshal(wire.CancelRequest{Invocation: id})
	must(n.tb, err)
	must(n.tb, shared.conn.Publish(wire.CancelSubject, data))
}

func wantStored(t *testing.T, key, want string) {
	t.Helper()
	data, err := shared.store.GetBytes(t.Context(), key, wire.MaxAsyncPayload)
	if err != nil || string(data) != want {
		t.Errorf("%s has %d bytes, %v", key, len(data), err)
	}
}

// TestAttemptAtAnEvent: its output is stored, whatever the version says, with nothing of
// other calls; the answer tells of it, and no record is written.
func TestAttemptAtAnEvent(t *testing.T) {
	n := startNode(t, output(func(_ *process, dir string, event []byte) error {
		return os.WriteFile(filepath.Join(dir, strings.Trim(string(event), `"`)), event, 0o600)
	}))
	v := n.deploy()
	n.wantBody(n.cold(v, `"call"`), `"call"`) // leaves a file that nobody keeps
	records := listen[wire.Record](t, wire.FunctionRecords(v.FunctionID))
	for _, name := range []string{"first", "second"} {
		id, a := n.attempt(v, wire.InvokeRequest{}, `"`+name+`"`)
		n.wantBody(a, `"`+name+`"`)
		want := &wire.Output{ResultBytes: int64(len(name) + 2), Files: []wire.OutputFile{{Path: name, Bytes: int64(len(name) + 2)}}}
		if diff := cmp.Diff(want, a.Output); diff != "" {
			t.Errorf("output: %s", diff)
		}
		wantStored(t, wire.OutputResultKey(v.FunctionID, id), `"`+name+`"`)
		wantStored(t, wire.OutputFileKey(v.FunctionID, id, name), `"`+name+`"`)
		if _, err := shared.conn.Last(t.Context(), wire.StreamStoredRecords, wire.StoredRecordSubject(v.FunctionID, id)); err == nil {
			t.Error("the node wrote a record")
		}
	}
	// What comes next on the subject is of a call: the attempts said nothing there.
	call := newInvocation()
	_, err := n.send(wire.InvokeRequest{Invocation: call, Version: v}, []byte(`"call"`))
	must(t, err)
	if r := receive(t, records); r.Invocation != call {
		t.Errorf("a record of %s", r.Invocation)
	}
}

// TestLargeEvent: payload and result stay in S3.
func TestLargeEvent(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	event := `"` + strings.Repeat("x", 5*mib) + `"`
	const key = "payloads/some-event/request"
	must(t, shared.store.PutBytes(t.Context(), key, []byte(event), "application/json"))
	id, a := n.attempt(v, wire.InvokeRequest{Lease: newLease(), PayloadKey: key}, "")
	if a.Error != nil || len(a.body) != 0 || a.PayloadKey != "" || a.Output == nil || a.Output.ResultBytes != int64(len(event)) {
		t.Fatalf("answer %+v with %d bytes", a.InvokeReply, len(a.body))
	}
	wantStored(t, wire.OutputResultKey(v.FunctionID, id), event)
	wantStored(t, key, event)
}

// TestEventsAtOnce: where files belong to no single event, the result is stored alone.
func TestEventsAtOnce(t *testing.T) {
	n := startNode(t, output(func(_ *process, dir string, event []byte) error {
		return os.WriteFile(filepath.Join(dir, "file"), event, 0o600)
	}))
	v := n.deploy(func(s *functions.Spec) { s.Concurrency = 2 })
	id, a := n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
	if a.Output == nil || len(a.Output.Files) != 0 || a.Output.ResultBytes != 1 {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	wantStored(t, wire.OutputResultKey(v.FunctionID, id), `1`)
}

// TestCancel: the instance is killed with all that it runs, and others go on.
func TestCancel(t *testing.T) {
	n := startNode(t, each(func(p *process, id string, event []byte) ([]byte, error) {
		if string(event) == `"wait"` {
			p.print("busy\n")
			<-p.ctx.Done()
		}
		return event, nil
	}))
	v := n.deploy()
	id, other := newInvocation(), newInvocation()
	answers := map[wire.InvocationID]chan answer{id: make(chan answer, 1), other: make(chan answer, 1)}
	for id, to := range answers {
		go func() {
			a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease(), Event: true}, []byte(`"wait"`))
			if err != nil {
				a.Error = wire.AsError(err)
			}
			to <- a
		}()
	}
	n.awaitCount(v, wire.VersionOnNode{Busy: 2, Slots: 2})
	must(t, shared.conn.Publish(wire.CancelSubject, []byte("nonsense")))
	n.cancel(newInvocation())
	n.cancel(id)
	a := receive(t, answers[id])
	n.wantError(a, wire.CodeCancelled, false, "cancelled")
	if a.Instance == "" || !a.Spent {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 1})
	n.cancel(other)
	n.wantError(receive(t, answers[other]), wire.CodeCancelled, false, "cancelled")
	n.awaitCount(v, wire.VersionOnNode{})
}
