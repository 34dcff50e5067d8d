package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	thumbnail = wire.FunctionID{Namespace: "team-a", Name: "thumbnail"}
	spec      = functions.Spec{Runtime: "python", Handler: "app.handler"}
	now       = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	code      = wire.Digest(strings.Repeat("0a", 32))
)

func connect(t *testing.T) *bus.Conn {
	t.Helper()
	return embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
}

func open(t *testing.T, conn *bus.Conn) *Registry {
	t.Helper()
	r, err := Open(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func deploy(t *testing.T, r *Registry, id wire.FunctionID) Deployed {
	t.Helper()
	d, err := r.Deploy(t.Context(), id, spec, functions.Artifact{Code: code, CodeBytes: 12}, now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// function reads a function as it is stored.
func function(t *testing.T, r *Registry, id wire.FunctionID) functions.Function {
	t.Helper()
	f, _, err := r.read(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDeploy(t *testing.T) {
	r := open(t, connect(t))
	first := deploy(t, r, thumbnail)
	second := deploy(t, r, thumbnail)
	want := functions.Function{
		FunctionID: thumbnail, Aliases: map[string]functions.Alias{"live": {Version: 2}}, Versions: []int{1, 2}, Latest: 2, Previous: 1, Decided: 2, CreatedAt: now, UpdatedAt: now,
	}
	for what, got := range map[string]functions.Function{"answer": second.Function, "stored": function(t, r, thumbnail)} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	for n, d := range map[int]Deployed{1: first, 2: second} {
		want := functions.Version{VersionID: wire.VersionID{FunctionID: thumbnail, Number: n}, Spec: spec, Artifact: functions.Artifact{Code: code, CodeBytes: 12}, CreatedAt: now}
		got, err := r.Version(t.Context(), want.VersionID)
		if err != nil {
			t.Fatal(err)
		}
		for what, v := range map[string]functions.Version{"answer": d.Version, "stored": got} {
			if diff := cmp.Diff(want, v); diff != "" {
				t.Errorf("version %d, %s (-want +got):\n%s", n, what, diff)
			}
		}
	}
	if second.Revision <= first.Revision {
		t.Errorf("revisions %d, %d", first.Revision, second.Revision)
	}
	_, err := r.Version(t.Context(), wire.VersionID{FunctionID: thumbnail, Number: 3})
	if !wire.HasCode(err, wire.CodeNotFound) || !strings.Contains(err.Error(), "thumbnail.team-a:3") {
		t.Errorf("missing version: %v", err)
	}
}

// TestConcurrentDeploys: every version has a number of its own, none is left out,
// and the alias ends at the highest, over several registries.
func TestConcurrentDeploys(t *testing.T) {
	const deploys = 16
	conn := connect(t)
	registries := []*Registry{open(t, conn), open(t, conn)}
	var mu sync.Mutex
	var numbers []int
	var all sync.WaitGroup
	for i := range deploys {
		all.Go(func() {
			d, err := registries[i%2].Deploy(t.Context(), thumbnail, spec, functions.Artifact{Code: code, CodeBytes: 12}, now)
			if err != nil {
				t.Error(err)
				return
			}
			if live := d.Function.Aliases["live"].Version; live < d.Version.Number {
				t.Errorf("version %d is deployed and live is %d", d.Version.Number, live)
			}
			mu.Lock()
			defer mu.Unlock()
			numbers = append(numbers, d.Version.Number)
		})
	}
	all.Wait()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != i+1 {
			t.Fatalf("numbers %v", numbers)
		}
	}
	f := function(t, registries[0], thumbnail)
	if len(numbers) != deploys || f.Latest != deploys || f.Aliases["live"].Version != deploys {
		t.Errorf("%d numbers, function %+v", len(numbers), f)
	}
}

// TestDeleteKeepsNumbers: a number never means two different things.
func TestDeleteKeepsNumbers(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail)
	deploy(t, r, thumbnail)
	if _, err := r.Delete(t.Context(), thumbnail, now); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if _, err := r.Version(t.Context(), wire.VersionID{FunctionID: thumbnail, Number: n}); !wire.HasCode(err, wire.CodeNotFound) {
			t.Errorf("version %d after the delete: %v", n, err)
		}
	}
	if _, err := r.Delete(t.Context(), thumbnail, now); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("second delete: %v", err)
	}
	d := deploy(t, r, thumbnail)
	if d.Version.Number != 3 || d.Function.Deleted || d.Function.Aliases["live"].Version != 3 {
		t.Errorf("deployed again as %+v", d)
	}
	if _, err := r.Delete(t.Context(), wire.FunctionID{Namespace: "team-a", Name: "nobody"}, now); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("delete of nothing: %v", err)
	}
}

// TestCrashBetweenVersionAndAlias: the function is as it was, and the next deploy
// goes past what the crash left.
func TestCrashBetweenVersionAndAlias(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail)
	orphan := functions.Version{VersionID: wire.VersionID{FunctionID: thumbnail}, Spec: spec, Artifact: functions.Artifact{Code: code}}
	if err := r.createVersion(t.Context(), &orphan); err != nil {
		t.Fatal(err)
	}
	if f := function(t, r, thumbnail); orphan.Number != 2 || f.Latest != 1 || f.Aliases["live"].Version != 1 {
		t.Errorf("orphan %d, function %+v", orphan.Number, f)
	}
	if d := deploy(t, r, thumbnail); d.Version.Number != 3 || d.Function.Aliases["live"].Version != 3 || d.Function.Latest != 3 {
		t.Errorf("next deploy: %+v", d)
	}
	fresh := wire.FunctionID{Namespace: "team-a", Name: "fresh"}
	orphan = functions.Version{VersionID: wire.VersionID{FunctionID: fresh}, Spec: spec, Artifact: functions.Artifact{Code: code}}
	if err := r.createVersion(t.Context(), &orphan); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.read(t.Context(), fresh); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a first deploy that crashed can be seen: %v", err)
	}
}

// TestSweep removes what crashes leave, once it is old, and no more than that.
func TestSweep(t *testing.T) {
	r := open(t, connect(t))
	fresh := wire.FunctionID{Namespace: "team-a", Name: "fresh"}
	deploy(t, r, thumbnail)
	for _, id := range []wire.FunctionID{thumbnail, fresh} {
		orphan := functions.Version{VersionID: wire.VersionID{FunctionID: id}, Spec: spec, Artifact: functions.Artifact{Code: code}}
		if err := r.createVersion(t.Context(), &orphan); err != nil {
			t.Fatal(err)
		}
	}
	deploy(t, r, thumbnail)
	versions := func() (keys []string) {
		entries, err := r.bucket.Entries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if id, number, err := wire.ParseFunctionKey(e.Key); err == nil && number > 0 {
				keys = append(keys, wire.VersionID{FunctionID: id, Number: number}.String())
			}
		}
		slices.Sort(keys)
		return keys
	}
	all := versions()
	if swept, err := r.Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil || swept.Removed != 0 || !slices.Equal(versions(), all) {
		t.Fatalf("what may still be listed was removed: %+v, %v, %v", swept, err, versions())
	}
	later := time.Now().Add(time.Hour)
	if swept, err := r.Sweep(t.Context(), later); err != nil || swept.Removed != 2 || !swept.Objects[wire.CodeKey(code)] || len(swept.Objects) != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if diff := cmp.Diff([]string{"thumbnail.team-a:1", "thumbnail.team-a:3"}, versions()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if swept, err := r.Sweep(t.Context(), later); err != nil || swept.Removed != 0 {
		t.Errorf("swept again %+v, %v", swept, err)
	}
	// Numbers never mean two things, and what is not there cannot be found.
	if _, err := r.Function(t.Context(), fresh); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("a function that was never deployed: %v", err)
	}
	if d := deploy(t, r, fresh); d.Version.Number != 2 || !d.Live {
		t.Errorf("next deploy: %+v", d)
	}
}

// TestSweptDeployIsTold: a deploy that was only slow lists no version that is gone.
func TestSweptDeployIsTold(t *testing.T) {
	conn := connect(t)
	r := open(t, conn)
	deploy(t, r, thumbnail)
	slow := functions.Version{VersionID: wire.VersionID{FunctionID: thumbnail}, Spec: spec, Artifact: functions.Artifact{Code: code}}
	if err := r.createVersion(t.Context(), &slow); err != nil {
		t.Fatal(err)
	}
	if swept, err := r.Sweep(t.Context(), time.Now().Add(time.Hour)); err != nil || swept.Removed != 1 {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	if _, err := r.list(t.Context(), slow, now); !wire.HasCode(err, wire.CodeConflict) {
		t.Errorf("listed: %v", err)
	}
	if f := function(t, r, thumbnail); !slices.Equal(f.Versions, []int{1}) {
		t.Errorf("function %+v", f)
	}
}

// TestSlowDeployKeepsTheNewerAlias: who began earlier and ends later does not turn
// live back.
func TestSlowDeployKeepsTheNewerAlias(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail)
	deploy(t, r, thumbnail)
	late, err := r.Promote(t.Context(), functions.Version{VersionID: wire.VersionID{FunctionID: thumbnail, Number: 1}}, now)
	if err != nil || late.Live || late.Function.Aliases["live"].Version != 2 {
		t.Errorf("late deploy: %+v, %v", late, err)
	}
	if f := function(t, r, thumbnail); f.Aliases["live"].Version != 2 || f.Latest != 2 {
		t.Errorf("function %+v", f)
	}
}

func TestTooManyWriters(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail)
	tries := 0
	_, _, err := r.change(t.Context(), thumbnail, func(*functions.Function) error {
		tries++
		other, revision, err := r.read(t.Context(), thumbnail)
		if err == nil {
			_, err = r.bucket.Update(t.Context(), wire.FunctionKey(thumbnail), []byte(fmt.Sprintf(`{"latest":%d}`, other.Latest)), revision)
		}
		return err
	})
	if !wire.HasCode(err, wire.CodeConflict) || tries != casAttempts {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

func TestDamagedEntries(t *testing.T) {
	conn := connect(t)
	r := open(t, conn)
	v := wire.VersionID{FunctionID: thumbnail, Number: 1}
	for _, key := range []string{wire.FunctionKey(thumbnail), wire.VersionKey(v)} {
		if _, err := r.bucket.Create(t.Context(), key, []byte("{")); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.Version(t.Context(), v)
	if !wire.HasCode(err, wire.CodeInternal) || !strings.Contains(err.Error(), wire.VersionKey(v)) {
		t.Errorf("version: %v", err)
	}
	if _, err := r.Delete(t.Context(), thumbnail, now); !wire.HasCode(err, wire.CodeInternal) {
		t.Errorf("delete: %v", err)
	}
	c := startCache(t, r)
	if list := c.List(""); len(list) != 0 {
		t.Errorf("cache has %v", list)
	}
}

func TestRegistryIsAway(t *testing.T) {
	conn := connect(t)
	r := open(t, conn)
	conn.Close()
	_, version := r.Version(t.Context(), wire.VersionID{FunctionID: thumbnail, Number: 1})
	_, deployed := r.Deploy(t.Context(), thumbnail, spec, functions.Artifact{Code: code, CodeBytes: 1}, now)
	_, deleted := r.Delete(t.Context(), thumbnail, now)
	_, opened := Open(t.Context(), conn)
	for what, err := range map[string]error{
		"version": version, "deploy": deployed, "delete": deleted, "open": opened, "cache": NewCache(r, embedtest.Discard()).Start(t.Context()),
	} {
		if !wire.HasCode(err, wire.CodeUnavailable) {
			t.Errorf("%s: %v, want unavailable", what, err)
		}
	}
}

func startCache(t *testing.T, r *Registry) *Cache {
	t.Helper()
	c := NewCache(r, embedtest.Discard())
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // again: nothing happens
			if err := c.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func await(t *testing.T, c *Cache, revision uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Await(ctx, revision); err != nil {
		t.Fatal(err)
	}
}

func TestCacheFollows(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail)
	deleted := wire.FunctionID{Namespace: "team-a", Name: "deleted"}
	deploy(t, r, deleted)
	if _, err := r.Delete(t.Context(), deleted, now); err != nil {
		t.Fatal(err)
	}
	c := startCache(t, r)
	live := wire.Ref{FunctionID: thumbnail, Qualifier: "live"}
	if f, v, err := c.Resolve(live, functions.MainDraw); err != nil || f.Latest != 1 || v.Number != 1 {
		t.Errorf("at the start: %+v %+v %v", f, v, err)
	}
	if _, _, err := c.Resolve(wire.Ref{FunctionID: deleted, Qualifier: "live"}, functions.MainDraw); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("the deleted one: %v", err)
	}
	await(t, c, deploy(t, r, thumbnail).Revision)
	if _, v, err := c.Resolve(live, functions.MainDraw); err != nil || v.Number != 2 {
		t.Errorf("after a deploy: %+v %v", v, err)
	}
	if _, v, err := c.Resolve(wire.Ref{FunctionID: thumbnail, Qualifier: "1"}, functions.MainDraw); err != nil || v.Number != 1 {
		t.Errorf("by number: %+v %v", v, err)
	}
	for _, qualifier := range []string{"3", "beta"} {
		if _, _, err := c.Resolve(wire.Ref{FunctionID: thumbnail, Qualifier: qualifier}, functions.MainDraw); !wire.HasCode(err, wire.CodeNotFound) {
			t.Errorf("%s: %v", qualifier, err)
		}
	}
	revision, err := r.Delete(t.Context(), thumbnail, now)
	if err != nil {
		t.Fatal(err)
	}
	await(t, c, revision)
	if _, _, err := c.Resolve(live, functions.MainDraw); !wire.HasCode(err, wire.CodeNotFound) || !strings.Contains(err.Error(), "dayfly list") {
		t.Errorf("after the delete: %v", err)
	}
}

// TestCacheKnowsWhatIsKept: only live versions that ask for instances are listed, and
// who listed them hears of every change.
func TestCacheKnowsWhatIsKept(t *testing.T) {
	r := open(t, connect(t))
	standing := functions.Spec{Runtime: "python", MinInstances: 2}
	write := func(id wire.FunctionID, spec functions.Spec) uint64 {
		d, err := r.Deploy(t.Context(), id, spec, functions.Artifact{Code: code, CodeBytes: 1}, now)
		if err != nil {
			t.Fatal(err)
		}
		return d.Revision
	}
	other := wire.FunctionID{Namespace: "team-b", Name: "other"}
	write(thumbnail, standing)
	write(other, spec)
	c := startCache(t, r)
	for _, step := range []struct {
		what   string
		change func() uint64
		want   []string
	}{
		{"at the start", func() uint64 { return 0 }, []string{"thumbnail.team-a:1"}},
		{"a newer version", func() uint64 { return write(thumbnail, standing) }, []string{"thumbnail.team-a:2"}},
		{"another function", func() uint64 { return write(other, standing) }, []string{"other.team-b:2", "thumbnail.team-a:2"}},
		{"one that asks for none", func() uint64 { return write(other, spec) }, []string{"thumbnail.team-a:2"}},
		{"deleted", func() uint64 {
			revision, err := r.Delete(t.Context(), thumbnail, now)
			if err != nil {
				t.Fatal(err)
			}
			return revision
		}, nil},
	} {
		_, changed := c.Kept()
		revision := step.change()
		await(t, c, revision)
		if revision > 0 {
			<-changed
		}
		versions, _ := c.Kept()
		var got []string
		for _, v := range versions {
			got = append(got, v.String())
			if v.Spec.MinInstances != 2 {
				t.Errorf("%s: %s asks for %d", step.what, v.VersionID, v.Spec.MinInstances)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}

func TestCacheKnowsTriggers(t *testing.T) {
	r := open(t, connect(t))
	c := startCache(t, r)
	triggered := functions.Spec{Runtime: "python", Triggers: []functions.Trigger{{Queue: &functions.QueueTrigger{Subject: "a"}}}}
	for _, step := range []struct {
		spec functions.Spec
		want int
	}{{triggered, 1}, {spec, 0}, {triggered, 1}} {
		d, err := r.Deploy(t.Context(), thumbnail, step.spec, functions.Artifact{Code: code, CodeBytes: 1}, now)
		if err != nil {
			t.Fatal(err)
		}
		await(t, c, d.Revision)
		versions, _ := c.Triggered()
		if len(versions) != step.want || step.want == 1 && versions[0].VersionID != d.Version.VersionID {
			t.Errorf("%+v, want %d", versions, step.want)
		}
	}
}

func TestCacheLists(t *testing.T) {
	r := open(t, connect(t))
	for _, id := range []wire.FunctionID{{Namespace: "b", Name: "a"}, {Namespace: "a", Name: "z"}, {Namespace: "a", Name: "b"}} {
		deploy(t, r, id)
	}
	c := startCache(t, r)
	for namespace, want := range map[string][]string{"": {"b.a", "z.a", "a.b"}, "a": {"b.a", "z.a"}, "c": {}} {
		got := []string{}
		for _, f := range c.List(namespace) {
			got = append(got, f.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", namespace, diff)
		}
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	c := startCache(t, open(t, connect(t)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Await(ctx, 1<<40)
	if !wire.HasCode(err, wire.CodeUnavailable) || wire.AsError(err).Retryable {
		t.Errorf("error = %v", err)
	}
}

// TestCacheStartGivesUp: a start that is broken off leaves nothing running, which
// goleak would see.
func TestCacheStartGivesUp(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := NewCache(r, embedtest.Discard())
	if err := c.Start(ctx); err == nil {
		// The entries were quicker than the look at the context.
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
