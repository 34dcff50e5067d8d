package registry

import (
	"context"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Sweep removes versions that no function lists and that were written before a moment, by
// the clock of NATS: a deploy died before it listed its version, or a removal was cut
// short. It returns how many. Before it removes any it takes their numbers from those who
// may still be about to list them, so that a deploy that was only slow fails. Any number of
// sweeps may run at once.
func (r *Registry) Sweep(ctx context.Context, before time.Time) (removed int, err error) {
	entries, err := r.bucket.Entries(ctx)
	if err != nil {
		return 0, unavailable(err)
	}
	old, listed := map[wire.FunctionID][]int{}, map[wire.FunctionID]functions.Function{}
	for _, e := range entries {
		id, number, err := wire.ParseFunctionKey(e.Key)
		switch {
		case err != nil:
			return 0, damaged(e.Key, err)
		case number == 0:
			if listed[id], err = decodeFunction(e); err != nil {
				return 0, err
			}
		case e.At.Before(before):
			old[id] = append(old[id], number)
		}
	}
	for id, numbers := range old {
		numbers = slices.DeleteFunc(numbers, listed[id].Has)
		if len(numbers) == 0 {
			continue
		}
		if numbers, err = r.giveUp(ctx, id, numbers); err == nil {
			err = r.remove(ctx, id, numbers)
		}
		if err != nil {
			return removed, err
		}
		removed += len(numbers)
	}
	return removed, nil
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
