package registry

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestMemoryOfIdleFunctions: a function that is only registered takes at most 4 KiB, and
// each further version of it little.
func TestMemoryOfIdleFunctions(t *testing.T) {
	const count, most, mostVersion = 1000, 4096, 1024
	c := NewCache(nil, embedtest.Discard())
	first := heapOf(func() { fill(t, c, count, 1) }) / count
	further := heapOf(func() { fill(t, c, count, 2) }) / count
	t.Logf("%d bytes a function, %d a further version", first, further)
	if first > most || further > mostVersion {
		t.Errorf("%d bytes a function, %d a further version; want at most %d and %d", first, further, most, mostVersion)
	}
	runtime.KeepAlive(c)
}

// TestVersionsShareWhatIsTheSame: and nothing else.
func TestVersionsShareWhatIsTheSame(t *testing.T) {
	c := NewCache(nil, embedtest.Discard())
	fill(t, c, 1, 1)
	fill(t, c, 1, 2)
	id := wire.FunctionID{Namespace: "default", Name: "function-0"}
	one, two := c.versions[wire.VersionID{FunctionID: id, Number: 1}], c.versions[wire.VersionID{FunctionID: id, Number: 2}]
	if one.Number != 1 || two.Number != 2 || one.Code == two.Code || two.Spec.Env["SIZE"] != "128" {
		t.Errorf("%+v\n%+v", one, two)
	}
	other := two
	other.Number, other.Spec.MemoryBytes = 3, 1
	other.Spec.Env = map[string]string{"SIZE": "1"}
	apply(t, c, wire.VersionKey(other.VersionID), other)
	if three := c.versions[other.VersionID]; three.Spec.MemoryBytes != 1 || three.Spec.Env["SIZE"] != "1" || two.Spec.Env["SIZE"] != "128" {
		t.Errorf("%+v", three)
	}
}

// fill gives functions one more version.
func fill(t *testing.T, c *Cache, count, number int) {
	t.Helper()
	now := time.Now()
	for i := range count {
		id := wire.FunctionID{Namespace: "default", Name: fmt.Sprint("function-", i)}
		v := functions.Version{
			VersionID: wire.VersionID{FunctionID: id, Number: number}, CreatedAt: now,
			Artifact: functions.Artifact{Code: wire.Digest(fmt.Sprintf("%064x", i*10+number)), CodeBytes: 4096},
			Spec: functions.Spec{
				Runtime: functions.RuntimePython, Handler: "app.handler", MemoryBytes: 1 << 27, CPUMillis: 100, TimeoutMillis: 30_000, Concurrency: 1,
				MaxInstances: 50, Env: map[string]string{"LOG_LEVEL": "info", "SIZE": "128"}, Isolation: functions.IsolationShared, Network: functions.NetworkEgress,
			},
		}
		f := functions.Function{FunctionID: id, CreatedAt: now}
		for n := 1; n <= number; n++ {
			f.Add(n, now)
			f.Promote(n, now)
		}
		apply(t, c, wire.VersionKey(v.VersionID), v)
		apply(t, c, wire.FunctionKey(id), f)
	}
}

func apply(t *testing.T, c *Cache, key string, value any) {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	c.apply(bus.Entry{Key: key, Value: data, Revision: 1})
}

// heapOf is by how many bytes the heap grew.
func heapOf(do func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers kept
	runtime.ReadMemStats(&before)
	do()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc) //nolint:gosec // it is far from that large
}
