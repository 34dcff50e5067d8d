package records_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")

var function = wire.FunctionID{Namespace: "team-a", Name: "f"}

func open(t *testing.T) (*records.Store, *bus.Conn) {
	t.Helper()
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	for _, s := range records.Streams(time.Hour, 0) {
		if err := conn.EnsureStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return records.New(conn), conn
}

// TestWriteIsCompareAndSet: of two who know the same record, one writes the next.
func TestWriteIsCompareAndSet(t *testing.T) {
	store, _ := open(t)
	none, err := store.Read(t.Context(), function, id)
	if err != nil || none.Revision != 0 || none.Settled(wire.Event{}) {
		t.Fatalf("%+v, %v", none, err)
	}
	r := wire.Record{Invocation: id, Version: wire.VersionID{FunctionID: function, Number: 1}, State: wire.StateAccepted}
	first, err := store.Write(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Write(t.Context(), r, 0); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("error %v", err)
	}
	r.State = wire.StateSucceeded
	if _, err := store.Write(t.Context(), r, first.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Write(t.Context(), r, first.Revision); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("error %v", err)
	}
	read, err := store.Read(t.Context(), function, id)
	found, e := store.Find(t.Context(), id)
	if err != nil || e != nil || read.State != wire.StateSucceeded || found.Revision != read.Revision {
		t.Errorf("%+v, %+v, %v", read, found, errors.Join(err, e))
	}
}

func TestSettled(t *testing.T) {
	for _, test := range []struct {
		state        wire.State
		record, life int
		want         bool
	}{
		{wire.StateAccepted, 0, 0, false},
		{wire.StateRunning, 0, 0, false},
		{wire.StateSucceeded, 0, 0, true},
		{wire.StateFailed, 0, 0, true},
		{wire.StateCancelled, 0, 0, true},
		{wire.StateDead, 0, 0, true},
		{wire.StateDead, 0, 1, false}, // it came back since
		{wire.StateDead, 1, 1, true},
		{wire.StateSucceeded, 2, 1, true}, // a late word of an earlier life
	} {
		e := records.Entry{Revision: 1, Record: wire.Record{State: test.state, Redrives: test.record}}
		if got := e.Settled(wire.Event{Redrives: test.life}); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

// TestAttemptsFitIntoAMessage, however many there are and whatever the function says,
// and tell of the latest in full.
func TestAttemptsFitIntoAMessage(t *testing.T) {
	store, conn := open(t)
	long := strings.Repeat("\x01", 8<<10) // six bytes for one in JSON
	failure := &wire.Error{Code: wire.CodeFunctionError, Message: long, Type: long[:256], Logs: long[:wire.LogTail]}
	for range 64 {
		failure.Trace = append(failure.Trace, long[:1<<10])
	}
	r := wire.Record{Invocation: id, Version: wire.VersionID{FunctionID: function}}
	for i := range wire.MaxAttempts + 10 {
		records.AddAttempt(&r, r.Attempts, wire.Attempt{
			Version: wire.VersionID{FunctionID: function, Number: i + 1}, Node: "n1", Error: failure, RunMicros: int64(i),
		})
	}
	if len(r.Attempts) != wire.MaxAttempts || r.Error != failure || r.RunMicros != wire.MaxAttempts+9 || r.Attempts[0].RunMicros != 10 {
		t.Errorf("%d attempts, the first %d, the latest %d", len(r.Attempts), r.Attempts[0].RunMicros, r.RunMicros)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(data))
	if _, err := store.Write(t.Context(), r, 0); err != nil || len(data) > conn.MaxPayload() {
		t.Errorf("%d bytes: %v", len(data), err)
	}
	if len(failure.Trace) != 64 {
		t.Error("the caller's error was changed")
	}
}
