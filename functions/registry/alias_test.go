package registry

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

func register(t *testing.T, r *Registry, spec functions.Spec) Deployed {
	t.Helper()
	d, err := r.Register(t.Context(), thumbnail, spec, functions.Artifact{Code: code, CodeBytes: 12}, now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestRegisteredIsNotLive: the first version of a function can be called by its number
// before anything is live.
func TestRegisteredIsNotLive(t *testing.T) {
	r := open(t, connect(t))
	d := register(t, r, spec)
	want := functions.Function{FunctionID: thumbnail, Aliases: map[string]functions.Alias{}, Versions: []int{1}, Latest: 1, CreatedAt: now, UpdatedAt: now}
	if diff := cmp.Diff(want, d.Function); diff != "" || d.Live {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c := startCache(t, r)
	if _, v, err := c.Resolve(wire.Ref{FunctionID: thumbnail, Qualifier: "1"}, functions.MainDraw); err != nil || v.Number != 1 {
		t.Errorf("%+v %v", v, err)
	}
	if _, _, err := c.Resolve(wire.Ref{FunctionID: thumbnail, Qualifier: "live"}, functions.MainDraw); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("live: %v", err)
	}
	promoted, err := r.Promote(t.Context(), d.Version, now)
	if err != nil || !promoted.Live || promoted.Function.Aliases["live"].Version != 1 {
		t.Errorf("%+v %v", promoted, err)
	}
	again, err := r.Promote(t.Context(), d.Version, now)
	if err != nil || again.Live || again.Revision != promoted.Revision {
		t.Errorf("%+v %v", again, err)
	}
}

// TestDeleteEndsDeploysUnderWay: one that began before does not bring the function back.
func TestDeleteEndsDeploysUnderWay(t *testing.T) {
	r := open(t, connect(t))
	d := register(t, r, spec)
	if _, err := r.Delete(t.Context(), thumbnail, now); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Promote(t.Context(), d.Version, now); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("error = %v", err)
	}
	for what, err := range map[string]error{
		"function": func() error { _, err := r.Function(t.Context(), thumbnail); return err }(),
		"alias": func() error {
			_, _, err := r.SetAlias(t.Context(), thumbnail, "prod", functions.Alias{Version: 1}, now)
			return err
		}(),
		"remove":   func() error { _, _, err := r.RemoveAlias(t.Context(), thumbnail, "prod", now); return err }(),
		"rollback": func() error { _, err := r.Rollback(t.Context(), thumbnail, 0, now); return err }(),
	} {
		if !wire.HasCode(err, wire.CodeNotFound) || !strings.Contains(err.Error(), "no function thumbnail.team-a") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestOldVersionsAreRemoved: their keys go with them.
func TestOldVersionsAreRemoved(t *testing.T) {
	r := open(t, connect(t))
	deploy(t, r, thumbnail) // live stays here
	for range wire.MaxVersions + 1 {
		register(t, r, spec)
	}
	f := function(t, r, thumbnail)
	if len(f.Versions) != wire.MaxVersions || !f.Has(1) || f.Has(2) || f.Has(3) || !f.Has(4) {
		t.Errorf("versions %v", f.Versions)
	}
	for number, want := range map[int]bool{1: true, 2: false, 3: false, 4: true} {
		_, err := r.Version(t.Context(), wire.VersionID{FunctionID: thumbnail, Number: number})
		if (err == nil) != want {
			t.Errorf("version %d: %v", number, err)
		}
	}
}

// TestManyMoveAliases: every change is made once, whoever else makes one.
func TestManyMoveAliases(t *testing.T) {
	conn := connect(t)
	registries := []*Registry{open(t, conn), open(t, conn)}
	deploy(t, registries[0], thumbnail)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			name := fmt.Sprintf("alias-%d", i)
			if _, _, err := registries[i%2].SetAlias(t.Context(), thumbnail, name, functions.Alias{Version: 1}, now); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if _, _, err := registries[i%2].RemoveAlias(t.Context(), thumbnail, name, now); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	var names []string
	for name := range function(t, registries[0], thumbnail).Aliases {
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"alias-1", "alias-3", "alias-5", "alias-7", "live"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCacheKnowsBothParts: of a split live alias both versions are kept, and the main
// one's triggers count.
func TestCacheKnowsBothParts(t *testing.T) {
	r := open(t, connect(t))
	standing := functions.Spec{Runtime: "python", MinInstances: 1}
	triggered := functions.Spec{Runtime: "python", MinInstances: 2, Triggers: []functions.Trigger{{Queue: &functions.QueueTrigger{Subject: "a"}}}}
	register(t, r, standing)
	register(t, r, triggered)
	c := startCache(t, r)
	for _, step := range []struct {
		to              functions.Alias
		kept, triggered []int
	}{
		{functions.Alias{Version: 1}, []int{1}, nil},
		{functions.Alias{Version: 1, Weights: map[int]int{2: 10}}, []int{1, 2}, nil},
		{functions.Alias{Version: 2, Weights: map[int]int{1: 10}}, []int{1, 2}, []int{2}},
		{functions.Alias{Version: 2}, []int{2}, []int{2}},
	} {
		_, revision, err := r.SetAlias(t.Context(), thumbnail, wire.LiveAlias, step.to, now)
		if err != nil {
			t.Fatal(err)
		}
		await(t, c, revision)
		numbers := func(versions []functions.Version, _ <-chan struct{}) (list []int) {
			for _, v := range versions {
				list = append(list, v.Number)
			}
			slices.Sort(list)
			return list
		}
		if got := numbers(c.Kept()); !slices.Equal(got, step.kept) {
			t.Errorf("%s: kept %v", step.to, got)
		}
		if got := numbers(c.Triggered()); !slices.Equal(got, step.triggered) {
			t.Errorf("%s: triggered %v", step.to, got)
		}
	}
	_, versions, err := c.Versions(thumbnail)
	if err != nil || len(versions) != 2 || versions[0].Number != 2 || versions[1].Number != 1 {
		t.Errorf("%+v %v", versions, err)
	}
	if _, _, err := c.Versions(wire.FunctionID{Namespace: "team-a", Name: "nobody"}); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("nobody: %v", err)
	}
}
