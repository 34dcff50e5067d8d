package wire_test

import (
	"path"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func TestKeysAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := wire.VersionID{FunctionID: functionIDs().Draw(t, "function"), Number: rapid.IntRange(1, 1<<31).Draw(t, "number")}
		id, number, err := wire.ParseFunctionKey(wire.VersionKey(want))
		if err != nil || id != want.FunctionID || number != want.Number {
			t.Fatalf("%v: %v %d %v", want, id, number, err)
		}
		id, number, err = wire.ParseFunctionKey(wire.FunctionKey(want.FunctionID))
		if err != nil || id != want.FunctionID || number != 0 {
			t.Fatalf("%v: %v %d %v", want.FunctionID, id, number, err)
		}
	})
}

func TestKeysOfOthersAreRefused(t *testing.T) {
	for _, key := range []string{
		"", "a", "a.b", "a.b.c", "a.b.version", "a.b.version.", "a.b.version.0", "a.b.version.-1", "a.b.version.01", "a.b.version.+1",
		"a.b.version.x", "a.b.version.1.2", "a.b.function.1", ".b.function", "a..function", "A.b.function", "a.b_.version.1",
	} {
		if id, number, err := wire.ParseFunctionKey(key); err == nil {
			t.Errorf("%q is read as %v %d", key, id, number)
		}
	}
}

// FuzzParseFunctionKey: a key that is read is the one that is written.
func FuzzParseFunctionKey(f *testing.F) {
	for _, seed := range []string{"default.x.function", "default.x.version.3", "a.b.version.01", "a.b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		id, number, err := wire.ParseFunctionKey(key)
		if err != nil {
			return
		}
		again := wire.FunctionKey(id)
		if number > 0 {
			again = wire.VersionKey(wire.VersionID{FunctionID: id, Number: number})
		}
		if again != key {
			t.Errorf("%q is written %q", key, again)
		}
	})
}

// TestSubjectsAreCaptured: what a subject carries reaches its stream and its readers.
func TestSubjectsAreCaptured(t *testing.T) {
	const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")
	f := wire.FunctionID{Namespace: "team-a", Name: "x"}
	for _, test := range []struct{ pattern, subject string }{
		{wire.AllLogs, wire.LogSubject(f, id)},
		{wire.FunctionLogs(f), wire.LogSubject(f, id)},
		{wire.FunctionLogs(f), wire.LogSubject(f, "")},
		{wire.AllRecords, wire.RecordSubject(f, id)},
		{wire.AnyRecordSubject(id), wire.RecordSubject(f, id)},
		{wire.AllStoredRecords, wire.StoredRecordSubject(f, id)},
		{wire.AnyStoredRecordSubject(id), wire.StoredRecordSubject(f, id)},
		{wire.AllEvents, wire.EventSubject(f, id)},
		{wire.FunctionEvents(f), wire.EventSubject(f, id)},
		{wire.AnyEventSubject(id), wire.EventSubject(f, id)},
		{wire.AllDeadLetters, wire.DeadLetterSubject(f, id)},
		{wire.FunctionDeadLetters(f), wire.DeadLetterSubject(f, id)},
		{wire.AllIdempotency, wire.IdempotencySubject("0a")},
		{wire.AllNodeStates, wire.NodeStateSubject("n-1")},
		{wire.AllSchedules, wire.ScheduleSubject(f, "t1")},
		{wire.AllTicks, wire.TickSubject(f, "t1")},
		{wire.AllStreams("d1"), wire.StreamSubject("d1", id)},
		{wire.AllBuckets, wire.BucketSubject("up.loads")},
	} {
		if !captures(test.pattern, test.subject) {
			t.Errorf("%s does not match %s", test.pattern, test.subject)
		}
	}
	for _, test := range []struct{ pattern, subject string }{
		{wire.AllRecords, wire.StoredRecordSubject(f, id)},
		{wire.AllEvents, wire.EventHintSubject},
		{wire.AllTicks, wire.ScheduleSubject(f, "t1")},
		{wire.AllBuckets, wire.NotificationSubject},
		{wire.AllNodeStates, wire.NodeInvokeSubject("n-1")},
		{wire.AllNodeStates, wire.NodeStreamSubject("n-1")},
		{wire.AllStreams("d1"), wire.StreamSubject("d2", id)},
		{wire.FunctionLogs(f), wire.LogSubject(wire.FunctionID{Namespace: "team-a", Name: "x-1"}, id)},
	} {
		if captures(test.pattern, test.subject) {
			t.Errorf("%s matches %s", test.pattern, test.subject)
		}
	}
}

func TestEventQueue(t *testing.T) {
	f := wire.FunctionID{Namespace: "team-a", Name: "x-1"}
	unordered := wire.Event{}.Queue(f)
	if unordered.Partition != 0 || unordered.Subject("i") != wire.EventSubject(f, "i") || unordered.Events() != wire.FunctionEvents(f) {
		t.Errorf("%+v", unordered)
	}
	seen := map[int]bool{}
	for i := range 1000 {
		q := wire.Event{Order: strconv.Itoa(i)}.Queue(f)
		seen[q.Partition] = true
		if again := (wire.Event{Order: strconv.Itoa(i)}).Queue(f); again != q {
			t.Fatalf("%+v and %+v", q, again)
		}
		if got, ok := wire.ParseEventQueue(q.Consumer()); !ok || got != q {
			t.Fatalf("%+v is read %+v %t", q, got, ok)
		}
		if got, ok := wire.EventQueueOf(q.Subject("i")); !ok || got != q {
			t.Fatalf("an event of %+v is read as one of %+v %t", q, got, ok)
		}
		if !captures(wire.AllEvents, q.Subject("i")) || !captures(q.Events(), q.Subject("i")) || captures(unordered.Events(), q.Subject("i")) ||
			!captures(wire.AnyEventSubject("i"), q.Subject("i")) {
			t.Fatal(q.Subject("i"))
		}
	}
	if len(seen) != wire.EventPartitions || seen[0] {
		t.Errorf("partitions %v", seen)
	}
	for _, name := range []string{"", "events_", "events_a", "events_a_b_", "events_a_b_0", "events_a_b_17", "events_a_b_01", "events_a_b_1_1", "other_a_b", "events_A_b"} {
		if q, ok := wire.ParseEventQueue(name); ok {
			t.Errorf("%q names %+v", name, q)
		}
	}
	for _, subject := range []string{"", "dayfly.event.a.b", "dayfly.event.a.b.", "dayfly.event.a.b.i.j", "dayfly.event.a.b_0.i", "dayfly.event.a.b_01.i", "dayfly.other.a.b.i", "dayfly.event.A.b.i"} {
		if q, ok := wire.EventQueueOf(subject); ok {
			t.Errorf("%q is of %+v", subject, q)
		}
	}
}

// captures says whether a NATS subject matches a pattern.
func captures(pattern, subject string) bool {
	want, got := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range want {
		switch {
		case token == ">":
			return len(got) > i
		case i >= len(got) || token != "*" && token != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}

// TestObjectKeysStayApart: what one function leaves cannot take another's place.
func TestObjectKeysStayApart(t *testing.T) {
	const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")
	f := wire.FunctionID{Namespace: "team-a", Name: "x"}
	keys := []string{
		wire.CodeKey("d"), wire.BundleKey("d"), wire.RequestKey(id), wire.ResponseKey(id), wire.RestKey(id, "1"), wire.RestKey(id, "11"),
		wire.OutputResultKey(f, id), wire.OutputFileKey(f, id, "result"), wire.OutputFileKey(f, id, "a/b"),
	}
	seen := map[string]bool{}
	for _, key := range keys {
		if seen[key] || key != path.Clean(key) || strings.HasPrefix(key, "/") {
			t.Errorf("key %q", key)
		}
		seen[key] = true
	}
	for _, key := range keys[6:] {
		if !strings.HasPrefix(key, wire.OutputPrefix(f, id)) {
			t.Errorf("%q is not under %q", key, wire.OutputPrefix(f, id))
		}
	}
}
