// Package registry keeps functions, as master data in a key-value bucket and as a
// copy of it in memory that follows every change.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// casAttempts bounds how often a write is tried again after others were faster.
	casAttempts = 20
	// casPauseMax bounds the growing pause before that, which is not the same for any two.
	casPauseMax = 64 * time.Millisecond
)

// Registry is the master data about functions, in a key-value bucket. Every write
// is create-only or a compare-and-set, so any number of registries may write at
// once. It is safe for concurrent use. Its errors are [*wire.Error]: unavailable
// when the bucket cannot be asked, conflict when too many write at once. A change whose
// answer was lost is unavailable too, and the function that comes with the error is then
// what may have been written; without one, nothing was.
type Registry struct{ bucket *bus.Bucket }

// Open opens the registry, creating its bucket when there is none.
func Open(ctx context.Context, conn *bus.Conn) (*Registry, error) {
	bucket, err := conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketFunctions, MaxValueBytes: 256 << 10})
	if err != nil {
		return nil, unavailable(err)
	}
	return &Registry{bucket: bucket}, nil
}

// unavailable says that the registry could not be asked. An error that has a code
// already is left as it is.
func unavailable(err error) error {
	if _, coded := errors.AsType[*wire.Error](err); coded || err == nil {
		return err
	}
	return wire.Errorf(wire.CodeUnavailable, "the registry could not be asked: %s", err)
}

// damaged says that an entry cannot be read, which no repetition changes.
func damaged(key string, err error) error {
	return wire.Errorf(wire.CodeInternal, "registry key %s is damaged: %s", key, err)
}

// Deployed is what a deploy wrote; Revision is that of the last write.
type Deployed struct {
	Function functions.Function
	Version  functions.Version
	Revision uint64
	// Live says that the deploy made the version live.
	Live bool
}

// Register writes a new version, create-only, and then lists it with its function, of
// which it may be the first. No alias names it. A crash between the two leaves a version
// that nobody can refer to, which [Registry.Sweep] removes.
func (r *Registry) Register(ctx context.Context, id wire.FunctionID, spec functions.Spec, built functions.Artifact, now time.Time) (Deployed, error) {
	version := functions.Version{VersionID: wire.VersionID{FunctionID: id}, Spec: spec, Artifact: built, CreatedAt: now}
	if err := r.createVersion(ctx, &version); err != nil {
		return Deployed{}, err
	}
	return r.list(ctx, version, now)
}

// list lists a version that is written with its function.
func (r *Registry) list(ctx context.Context, version functions.Version, now time.Time) (Deployed, error) {
	var dropped []int
	function, revision, err := r.change(ctx, version.FunctionID, func(f *functions.Function) error {
		if version.Number <= f.GivenUp {
			return wire.Errorf(wire.CodeConflict, "the deploy of %s took so long that it was given up; deploy again", version.VersionID)
		}
		dropped = f.Add(version.Number, now)
		return nil
	})
	if err != nil {
		return Deployed{Function: function, Version: version}, err
	}
	// Nobody can refer to them any more; what cannot be removed now only takes room.
	_ = r.remove(ctx, version.FunctionID, dropped)
	return Deployed{Function: function, Version: version, Revision: revision}, nil
}

// Promote makes a registered version live, unless a later deploy or somebody's hand was
// quicker: see [functions.Function.Promote]. A function that was deleted meanwhile is
// not_found.
func (r *Registry) Promote(ctx context.Context, v functions.Version, now time.Time) (Deployed, error) {
	d := Deployed{Version: v}
	var err error
	d.Function, d.Revision, err = r.change(ctx, v.FunctionID, func(f *functions.Function) error {
		if err := known(f); err != nil {
			return err
		}
		if d.Live = f.Promote(v.Number, now); !d.Live {
			return errUnchanged
		}
		return nil
	})
	return d, err
}

// Deploy is [Registry.Register] and [Registry.Promote] at once.
func (r *Registry) Deploy(ctx context.Context, id wire.FunctionID, spec functions.Spec, built functions.Artifact, now time.Time) (Deployed, error) {
	d, err := r.Register(ctx, id, spec, built, now)
	if err != nil {
		return Deployed{}, err
	}
	return r.Promote(ctx, d.Version, now)
}

// SetAlias points an alias of a function somewhere else, making it when there is none;
// see [functions.Function.SetAlias].
func (r *Registry) SetAlias(ctx context.Context, id wire.FunctionID, name string, a functions.Alias, now time.Time) (functions.Function, uint64, error) {
	return r.change(ctx, id, func(f *functions.Function) error {
		if err := known(f); err != nil {
			return err
		}
		return f.SetAlias(name, a, now)
	})
}

// RemoveAlias removes an alias of a function; see [functions.Function.RemoveAlias].
func (r *Registry) RemoveAlias(ctx context.Context, id wire.FunctionID, name string, now time.Time) (functions.Function, uint64, error) {
	return r.change(ctx, id, func(f *functions.Function) error {
		if err := known(f); err != nil {
			return err
		}
		return f.RemoveAlias(name, now)
	})
}

// RolledBack is what [Registry.Rollback] did.
type RolledBack struct {
	From, To int
	Function functions.Function
	Revision uint64
}

// Rollback points the live alias of a function to a version, or with 0 to the one that
// was live before; see [functions.Function.Rollback].
func (r *Registry) Rollback(ctx context.Context, id wire.FunctionID, to int, now time.Time) (done RolledBack, err error) {
	done.Function, done.Revision, err = r.change(ctx, id, func(f *functions.Function) error {
		if err := known(f); err != nil {
			return err
		}
		var err error
		done.From, done.To, err = f.Rollback(to, now)
		return err
	})
	return done, err
}

// Function reads a function as it is now. A missing one is not_found.
func (r *Registry) Function(ctx context.Context, id wire.FunctionID) (functions.Function, error) {
	f, _, err := r.read(ctx, id)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return f, unavailable(err)
	}
	return f, known(&f)
}

// known fails for a function that is not there.
func known(f *functions.Function) error {
	if f.CreatedAt.IsZero() || f.Deleted {
		return wire.Errorf(wire.CodeNotFound, "there is no function %s", f.FunctionID)
	}
	return nil
}

// createVersion gives v the first free number and writes it.
func (r *Registry) createVersion(ctx context.Context, v *functions.Version) error {
	f, _, err := r.read(ctx, v.FunctionID)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return unavailable(err)
	}
	v.Number = f.Latest
	for range casAttempts {
		v.Number++
		data, err := json.Marshal(v)
		if err != nil {
			return wire.Errorf(wire.CodeInternal, "encode version %s: %s", v.VersionID, err)
		}
		_, err = r.bucket.Create(ctx, wire.VersionKey(v.VersionID), data)
		if !errors.Is(err, bus.ErrExists) {
			return unavailable(err)
		}
	}
	return wire.Errorf(wire.CodeConflict, "function %s is being deployed by too many at once; try again", v.FunctionID)
}

// Delete removes a function and its versions. Its last version number stays
// behind, so that a number never means two different things.
func (r *Registry) Delete(ctx context.Context, id wire.FunctionID, now time.Time) (revision uint64, err error) {
	var gone functions.Function
	_, revision, err = r.change(ctx, id, func(f *functions.Function) error {
		if err := known(f); err != nil {
			return err
		}
		gone = *f
		*f = functions.Function{FunctionID: id, Latest: f.Latest, Decided: f.Latest, GivenUp: f.GivenUp, CreatedAt: f.CreatedAt, UpdatedAt: now, Deleted: true}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return revision, r.remove(ctx, id, gone.Versions)
}

// remove removes versions that their function does not list any more.
func (r *Registry) remove(ctx context.Context, id wire.FunctionID, numbers []int) error {
	for _, n := range numbers {
		key := wire.VersionKey(wire.VersionID{FunctionID: id, Number: n})
		e, err := r.bucket.Get(ctx, key)
		if errors.Is(err, bus.ErrNotFound) {
			continue
		}
		if err == nil {
			err = r.bucket.Delete(ctx, key, e.Revision)
		}
		if err != nil && !errors.Is(err, bus.ErrConflict) { // another one was quicker
			return unavailable(err)
		}
	}
	return nil
}

// Version reads one version. A missing one is not_found.
func (r *Registry) Version(ctx context.Context, id wire.VersionID) (functions.Version, error) {
	e, err := r.bucket.Get(ctx, wire.VersionKey(id))
	if errors.Is(err, bus.ErrNotFound) {
		return functions.Version{}, wire.Errorf(wire.CodeNotFound, "there is no version %s", id)
	}
	if err != nil {
		return functions.Version{}, unavailable(err)
	}
	return decodeVersion(e)
}

func (r *Registry) read(ctx context.Context, id wire.FunctionID) (functions.Function, uint64, error) {
	e, err := r.bucket.Get(ctx, wire.FunctionKey(id))
	if err != nil {
		return functions.Function{FunctionID: id}, 0, err
	}
	f, err := decodeFunction(e)
	return f, e.Revision, err
}

// errUnchanged is what an edit returns that has nothing to write.
var errUnchanged = errors.New("nothing to change")

// change reads a function (a zero one when there is none), lets edit alter it and
// writes it back, again and again until nobody else wrote in between.
func (r *Registry) change(ctx context.Context, id wire.FunctionID, edit func(*functions.Function) error) (functions.Function, uint64, error) {
	key := wire.FunctionKey(id)
	for attempt := range casAttempts {
		if err := pause(ctx, attempt); err != nil {
			return functions.Function{}, 0, unavailable(err)
		}
		f, revision, err := r.read(ctx, id)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return functions.Function{}, 0, unavailable(err)
		}
		missing := err != nil
		switch err := edit(&f); {
		case errors.Is(err, errUnchanged):
			return f, revision, nil
		case err != nil:
			return functions.Function{}, 0, err
		}
		data, err := json.Marshal(f)
		if err != nil {
			return functions.Function{}, 0, wire.Errorf(wire.CodeInternal, "encode function %s: %s", id, err)
		}
		if missing {
			revision, err = r.bucket.Create(ctx, key, data)
		} else {
			revision, err = r.bucket.Update(ctx, key, data, revision)
		}
		if !errors.Is(err, bus.ErrExists) && !errors.Is(err, bus.ErrConflict) {
			return f, revision, unavailable(err)
		}
	}
	e := wire.Errorf(wire.CodeConflict, "function %s is being changed by too many at once; try again", id)
	e.Retryable = true // nothing was written
	return functions.Function{}, 0, e
}

// pause waits before an attempt but the first.
func pause(ctx context.Context, attempt int) error {
	if attempt == 0 {
		return nil
	}
	longest := min(time.Millisecond<<min(attempt, 10), casPauseMax)
	timer := time.NewTimer(rand.N(longest)) //nolint:gosec // no secret: it keeps writers apart
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func decodeFunction(e bus.Entry) (f functions.Function, err error) {
	if err := json.Unmarshal(e.Value, &f); err != nil {
		return f, damaged(e.Key, err)
	}
	return f, nil
}

func decodeVersion(e bus.Entry) (v functions.Version, err error) {
	if err := json.Unmarshal(e.Value, &v); err != nil {
		return v, damaged(e.Key, err)
	}
	return v, nil
}
