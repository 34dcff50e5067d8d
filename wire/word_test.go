package wire_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

// TestDeltasLeadToTheNextState draws two states of a run that differ in any of their
// fields, whatever these are: the second one follows from the first and the delta, or
// there is no delta.
func TestDeltasLeadToTheNextState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := drawState(t, "old")
		next := old
		another := drawState(t, "next")
		for i := range reflect.TypeFor[wire.NodeState]().NumField() {
			if rapid.Bool().Draw(t, "changed") {
				reflect.ValueOf(&next).Elem().Field(i).Set(reflect.ValueOf(another).Field(i))
			}
		}
		if rapid.Bool().Draw(t, "in order") {
			next.Seq = old.Seq + 1
		}
		before := asJSON(t, old)
		d := wire.Diff(&old, &next)
		if d == nil {
			same := old
			same.Seq, same.At, same.Load, same.Reserved, same.Idle, same.Draining = next.Seq, next.At, next.Load, next.Reserved, next.Idle, next.Draining
			same.Versions, same.Ran, same.Stems, same.Codes, same.Settled = next.Versions, next.Ran, next.Stems, next.Codes, next.Settled
			if next.Seq == old.Seq+1 && reflect.DeepEqual(same, next) {
				t.Fatal("what changes all the time has no delta")
			}
			return
		}
		var heard wire.NodeDelta
		if err := json.Unmarshal([]byte(asJSON(t, d)), &heard); err != nil {
			t.Fatal(err)
		}
		got := heard.Apply(old)
		want := next
		want.Settled = slices.DeleteFunc(slices.Clone(next.Settled), func(id wire.LeaseID) bool { return slices.Contains(old.Settled, id) })
		if got, want := asJSON(t, got), asJSON(t, want); got != want {
			t.Fatalf("got  %s\nwant %s\nby   %s", got, want, asJSON(t, d))
		}
		if after := asJSON(t, old); after != before {
			t.Fatalf("the old state became %s", after)
		}
	})
}

// TestEveryFieldCounts: no change of a single field is lost, those of tomorrow included.
func TestEveryFieldCounts(t *testing.T) {
	for i := range reflect.TypeFor[wire.NodeState]().NumField() {
		name := reflect.TypeFor[wire.NodeState]().Field(i).Name
		t.Run(name, func(t *testing.T) {
			old := wire.NodeState{Node: "n", Run: "r", Seq: 1}
			next := old
			next.Seq = 2
			if name != "Seq" {
				setSome(t, reflect.ValueOf(&next).Elem().Field(i))
			}
			d := wire.Diff(&old, &next)
			if d == nil {
				return // it is told whole
			}
			if diff := cmp.Diff(next, d.Apply(old)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// setSome gives a field a value that is not its zero.
func setSome(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		setSome(t, v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		setSome(t, key)
		setSome(t, value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)))
			return
		}
		for i := range v.NumField() {
			setSome(t, v.Field(i))
		}
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}

// drawState draws a sorted state of a node with few names, so that two often share some.
func drawState(t *rapid.T, label string) wire.NodeState {
	v := drawValue(t, reflect.TypeFor[wire.NodeState](), label)
	s := v.Interface().(wire.NodeState) //nolint:forcetypeassert // it is what was drawn
	s.Seq %= 1 << 20
	s.Versions = unique(s.Versions, func(v wire.VersionOnNode) wire.VersionID { return v.Version })
	s.Ran = unique(s.Ran, func(r wire.Ran) wire.VersionID { return r.Version })
	s.Codes = unique(s.Codes, func(d wire.Digest) wire.Digest { return d })
	s.Settled = unique(s.Settled, func(l wire.LeaseID) wire.LeaseID { return l })
	s.Sort()
	return s
}

func drawValue(t *rapid.T, of reflect.Type, label string) reflect.Value {
	v := reflect.New(of).Elem()
	n := rapid.IntRange(0, 3).Draw(t, label)
	switch of.Kind() {
	case reflect.String:
		v.SetString("x" + strconv.Itoa(n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Float64:
		v.SetFloat(float64(n))
	case reflect.Bool:
		v.SetBool(n > 1)
	case reflect.Slice:
		for range n {
			v.Set(reflect.Append(v, drawValue(t, of.Elem(), label)))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(of))
		for range n {
			v.SetMapIndex(drawValue(t, of.Key(), label), drawValue(t, of.Elem(), label))
		}
	case reflect.Struct:
		if of == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 5, 1, 12, 0, n, 0, time.UTC)))
			return v
		}
		for i := range of.NumField() {
			v.Field(i).Set(drawValue(t, of.Field(i).Type, label))
		}
	default:
		t.Fatalf("no value for a %s", of)
	}
	return v
}

// unique keeps the first item of each key.
func unique[T any, K comparable](list []T, key func(T) K) []T {
	seen := map[K]bool{}
	return slices.DeleteFunc(list, func(item T) bool {
		k := key(item)
		again := seen[k]
		seen[k] = true
		return again
	})
}

func asJSON(t *rapid.T, v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestAnIdleHeartbeatIsShort: it is most of what there is between 10,000 nodes.
func TestAnIdleHeartbeatIsShort(t *testing.T) {
	old := wire.NodeState{
		Node: "n1", Run: "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6", Seq: 1 << 20, Labels: map[string]string{"a": "b"}, Runtimes: []string{"python"},
		Versions: []wire.VersionOnNode{{Idle: 1}}, Codes: make([]wire.Digest, 100), Stems: map[string]int{"python/egress": 3},
	}
	next := old
	next.Seq, next.At, next.Load = old.Seq+1, time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC), 0.25
	data, err := json.Marshal(wire.NodeWord{Delta: wire.Diff(&old, &next)})
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 160 {
		t.Errorf("%d bytes: %s", len(data), data)
	}
}

func TestLastWordComesAfterAllOthers(t *testing.T) {
	data, err := json.Marshal(wire.LastWord("n1", "r1"))
	if err != nil {
		t.Fatal(err)
	}
	var got wire.NodeWord
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if s := got.Whole; s == nil || s.Node != "n1" || s.Run != "r1" || !s.Stopping || s.Seq+1 != 0 {
		t.Errorf("it is %s", data)
	}
}

func TestNodeOfState(t *testing.T) {
	if id, err := wire.NodeOfState(wire.NodeStateSubject("n-1")); err != nil || id != "n-1" {
		t.Errorf("%q, %v", id, err)
	}
	for _, subject := range []string{"", "n1.state", "dayfly.node.n1.invoke", "dayfly.node..state", "dayfly.node.state", "x.dayfly.node.n1.state", "dayfly.node.a.b.state"} {
		if id, err := wire.NodeOfState(subject); err == nil {
			t.Errorf("%q is node %q's", subject, id)
		}
	}
}

// BenchmarkHeartbeat reads an idle heartbeat and applies it.
func BenchmarkHeartbeat(b *testing.B) {
	old := wire.NodeState{Run: "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6", Seq: 6}
	next := old
	next.Seq, next.At, next.Load = 7, time.Now(), 0.25
	data, err := json.Marshal(wire.NodeWord{Delta: wire.Diff(&old, &next)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var w wire.NodeWord
		if err := json.Unmarshal(data, &w); err != nil {
			b.Fatal(err)
		}
		if got := w.Delta.Apply(old); got.Seq != 7 {
			b.Fatal("not applied")
		}
	}
}

func TestRunAndEnd(t *testing.T) {
	for i, test := range []struct {
		word wire.NodeWord
		run  string
		last bool
	}{
		{word: wire.NodeWord{}},
		{word: wire.NodeWord{Whole: &wire.NodeState{Run: "r"}}, run: "r"},
		{word: wire.NodeWord{Delta: &wire.NodeDelta{Run: "r"}}, run: "r"},
		{word: wire.LastWord("a", "r"), run: "r", last: true},
	} {
		if run, last := test.word.RunAndEnd(); run != test.run || last != test.last {
			t.Errorf("word %d: %q, %t", i, run, last)
		}
	}
}
