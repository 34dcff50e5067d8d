package roots

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// Grace is how long the object of a root that was replaced stays, so that a node
	// that read the index before can fetch it still.
	Grace = time.Hour
	// maxReplaced bounds the objects that wait for their end, of one root.
	maxReplaced = 32
	// moves bounds how often a write of the index is tried again.
	moves = 10
)

// Rebuild makes a root anew and moves the index to it, whether there is one already or
// not. What is replaced stays in S3 for [Grace].
func (s *Store) Rebuild(ctx context.Context, r Recipe) (wire.Root, error) {
	s.building.Lock()
	defer s.building.Unlock()
	made, err := s.make(ctx, r)
	made.Revision = 1 // nodes may have the recipe's first root, from another cluster
	if err != nil {
		return wire.Root{}, err
	}
	for range moves {
		old, err := s.bucket.Get(ctx, s.key(r))
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return wire.Root{}, err
		}
		root, err := s.move(ctx, made, old)
		if !errors.Is(err, bus.ErrConflict) && !errors.Is(err, bus.ErrExists) {
			return root, err
		}
	}
	return wire.Root{}, tooMany(r)
}

func tooMany(r Recipe) error {
	return wire.Errorf(wire.CodeConflict, "root %s is being rebuilt by too many at once; try again", r.Name)
}

// move points the index to a root that was just made, if it has old still; the zero
// Entry means none. Otherwise it fails with [bus.ErrExists] or [bus.ErrConflict].
func (s *Store) move(ctx context.Context, root wire.Root, old bus.Entry) (wire.Root, error) {
	root.Revision++
	if old.Revision > 0 {
		before, err := decode(old)
		if err != nil {
			return wire.Root{}, err
		}
		root.Revision, root.Replaced = before.Revision+1, replaced(before, root.Digest, time.Now().UTC())
	}
	data, err := json.Marshal(root)
	if err != nil {
		return wire.Root{}, err
	}
	key := wire.RootKey(root.Name, root.Arch, root.Recipe)
	if old.Revision > 0 {
		_, err = s.bucket.Update(ctx, key, data, old.Revision)
	} else {
		_, err = s.bucket.Create(ctx, key, data)
	}
	return root, err
}

// replaced is what a root leaves behind once another object takes its place.
func replaced(old wire.Root, by wire.Digest, now time.Time) []wire.ReplacedRoot {
	list := slices.DeleteFunc(slices.Clone(old.Replaced), func(r wire.ReplacedRoot) bool { return r.Digest == by })
	if old.Digest != by {
		list = append(list, wire.ReplacedRoot{Digest: old.Digest, At: now})
	}
	return list[max(0, len(list)-maxReplaced):]
}

// Collect removes the objects of roots that were replaced longer than [Grace] ago and
// that no root uses, and returns how many.
func (s *Store) Collect(ctx context.Context, now time.Time) (removed int, err error) {
	roots, err := s.List(ctx)
	if err != nil {
		return 0, err
	}
	used := map[wire.Digest]bool{}
	for _, root := range roots {
		used[root.Digest] = true
	}
	var errs []error
	for _, root := range roots {
		n, err := s.collect(ctx, root, used, now)
		removed += n
		if err != nil {
			errs = append(errs, fmt.Errorf("remove old roots %s: %w", root.Name, err))
		}
	}
	return removed, errors.Join(errs...)
}

// collect removes one root's objects, and takes them off its list afterwards, so that
// what a crash leaves is removed the next time.
func (s *Store) collect(ctx context.Context, root wire.Root, used map[wire.Digest]bool, now time.Time) (removed int, err error) {
	gone := map[wire.Digest]bool{}
	for _, old := range root.Replaced {
		if now.Sub(old.At) < Grace {
			continue
		}
		gone[old.Digest] = true
		if used[old.Digest] {
			continue
		}
		if err := s.store.Delete(ctx, wire.RuntimeKey(old.Digest)); err != nil {
			return removed, err
		}
		removed++
	}
	if len(gone) == 0 {
		return 0, nil
	}
	entry, err := s.bucket.Get(ctx, wire.RootKey(root.Name, root.Arch, root.Recipe))
	if err != nil {
		return removed, err
	}
	current, err := decode(entry)
	if err != nil {
		return removed, err
	}
	current.Replaced = slices.DeleteFunc(current.Replaced, func(r wire.ReplacedRoot) bool { return gone[r.Digest] })
	data, err := json.Marshal(current)
	if err != nil {
		return removed, err
	}
	_, err = s.bucket.Update(ctx, entry.Key, data, entry.Revision)
	if errors.Is(err, bus.ErrConflict) { // somebody rebuilt it; the next time
		err = nil
	}
	return removed, err
}
