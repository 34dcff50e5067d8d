// Package registry keeps functions, as master data in a key-value bucket and as a
// copy of it in memory that follows every change.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// casAttempts bounds how often a write is tried again after others were faster.
const casAttempts = 20

// Registry is the master data about functions, in a key-value bucket. Every write
// is create-only or a compare-and-set, so any number of registries may write at
// once. It is safe for concurrent use. Its errors are [*wire.Error]: unavailable
// when the bucket cannot be asked, conflict when too many write at once.
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

// Deployed is what [Registry.Deploy] wrote; Revision is that of the last write.
type Deployed struct {
	Function functions.Function
	Version  functions.Version
	Revision uint64
}

// Deploy writes a new version, create-only, and then moves the live alias to it.
// A crash between the two leaves a version that nothing names.
func (r *Registry) Deploy(ctx context.Context, id wire.FunctionID, spec functions.Spec, built functions.Artifact, now time.Time) (Deployed, error) {
	version := functions.Version{VersionID: wire.VersionID{FunctionID: id}, Spec: spec, Artifact: built, CreatedAt: now}
	if err := r.createVersion(ctx, &version); err != nil {
		return Deployed{}, err
	}
	function, revision, err := r.change(ctx, id, func(f *functions.Function) error {
		point(f, version, now)
		return nil
	})
	return Deployed{Function: function, Version: version, Revision: revision}, err
}

// point makes a version the live one of its function.
func point(f *functions.Function, v functions.Version, now time.Time) {
	if f.CreatedAt.IsZero() || f.Deleted {
		*f = functions.Function{FunctionID: v.FunctionID, Latest: f.Latest, CreatedAt: now}
	}
	if f.Aliases == nil {
		f.Aliases = map[string]functions.Alias{}
	}
	// A deploy that began later but was quicker keeps the alias.
	if f.Aliases[wire.LiveAlias].Version < v.Number {
		f.Aliases[wire.LiveAlias] = functions.Alias{Version: v.Number}
	}
	f.Latest = max(f.Latest, v.Number)
	f.UpdatedAt = now
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
		if f.CreatedAt.IsZero() || f.Deleted {
			return wire.Errorf(wire.CodeNotFound, "there is no function %s", id)
		}
		gone = *f
		*f = functions.Function{FunctionID: id, Latest: f.Latest, CreatedAt: f.CreatedAt, UpdatedAt: now, Deleted: true}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for n := 1; n <= gone.Latest; n++ {
		key := wire.VersionKey(wire.VersionID{FunctionID: id, Number: n})
		e, err := r.bucket.Get(ctx, key)
		if errors.Is(err, bus.ErrNotFound) {
			continue
		}
		if err == nil {
			err = r.bucket.Delete(ctx, key, e.Revision)
		}
		if err != nil && !errors.Is(err, bus.ErrConflict) { // another delete was quicker
			return revision, unavailable(err)
		}
	}
	return revision, nil
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

// change reads a function (a zero one when there is none), lets edit alter it and
// writes it back, again and again until nobody else wrote in between.
func (r *Registry) change(ctx context.Context, id wire.FunctionID, edit func(*functions.Function) error) (functions.Function, uint64, error) {
	key := wire.FunctionKey(id)
	for range casAttempts {
		f, revision, err := r.read(ctx, id)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return functions.Function{}, 0, unavailable(err)
		}
		missing := err != nil
		if err := edit(&f); err != nil {
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
	return functions.Function{}, 0, wire.Errorf(wire.CodeConflict, "function %s is being changed by too many at once; try again", id)
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
