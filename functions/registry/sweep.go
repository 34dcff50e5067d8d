package registry

import (
	"context"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// Swept is what [Registry.Sweep] saw and did.
type Swept struct {
	// Objects are the keys in S3 of the artifacts of all versions, as the master data said
	// when the sweep began. Those of versions that it removed are among them.
	Objects map[string]bool
	// Removed is how many versions were removed, also when there is an error.
	Removed int
}

// Sweep looks at all versions, one at a time. It removes those that no function lists and
// that were written before a moment, by the clock of NATS: a deploy died before it listed
// its version, or a removal was cut short. Before it removes any it takes their numbers
// from those who may still be about to list them, so that a deploy that was only slow
// fails. Any number of sweeps may run at once.
func (r *Registry) Sweep(ctx context.Context, before time.Time) (Swept, error) {
	seen := census{before: before, objects: map[string]bool{}, old: map[wire.FunctionID][]int{}, listed: map[wire.FunctionID][]int{}}
	if err := r.bucket.Each(ctx, seen.take); err != nil {
		return Swept{}, unavailable(err)
	}
	swept := Swept{Objects: seen.objects}
	for id, numbers := range seen.old {
		n, err := r.sweep(ctx, id, slices.DeleteFunc(numbers, func(n int) bool { return slices.Contains(seen.listed[id], n) }))
		if swept.Removed += n; err != nil {
			return swept, err
		}
	}
	return swept, nil
}

// census is what a sweep keeps of the registry.
type census struct {
	before  time.Time
	objects map[string]bool
	// old are the versions that were written before, listed those that functions list.
	old, listed map[wire.FunctionID][]int
}

// take notes one key. One that changes meanwhile may be told twice.
func (c *census) take(e bus.Entry) error {
	if e.Deleted {
		return nil // of what a sweep removes it makes no difference
	}
	id, number, err := wire.ParseFunctionKey(e.Key)
	if err != nil {
		return damaged(e.Key, err)
	}
	if number == 0 {
		f, err := decodeFunction(e)
		c.listed[id] = f.Versions
		return err
	}
	v, err := decodeVersion(e)
	if err != nil {
		return err
	}
	if v.Image != nil {
		c.objects[wire.ImageKey(v.Image.Digest)] = true
	} else {
		c.objects[wire.CodeKey(v.Code)] = true
	}
	if e.At.Before(c.before) && !slices.Contains(c.old[id], number) {
		c.old[id] = append(c.old[id], number)
	}
	return nil
}

// sweep removes versions of a function, unless it lists them by now.
func (r *Registry) sweep(ctx context.Context, id wire.FunctionID, numbers []int) (removed int, err error) {
	if len(numbers) == 0 {
		return 0, nil
	}
	gone, err := r.giveUp(ctx, id, numbers)
	if err == nil {
		err = r.remove(ctx, id, gone)
	}
	if err != nil {
		return 0, err
	}
	return len(gone), nil
}

// giveUp sees to it that versions which a function does not list never will be, and
// returns which these are.
func (r *Registry) giveUp(ctx context.Context, id wire.FunctionID, numbers []int) (gone []int, err error) {
	_, _, err = r.change(ctx, id, func(f *functions.Function) error {
		gone = slices.DeleteFunc(slices.Clone(numbers), f.Has)
		if len(gone) == 0 || !f.GiveUp(slices.Max(gone)) {
			return errUnchanged
		}
		return nil
	})
	return gone, err
}
