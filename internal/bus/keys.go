package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Each calls handle for every key as it is, until it fails, and keeps none of them in
// memory. All that was written before the call is told. A key that changes meanwhile may
// be told again, and removals may be told as well: the last word counts.
func (b *Bucket) Each(ctx context.Context, handle func(Entry) error) error {
	return b.list(ctx, start{filter: ">"}, handle)
}

// Entries returns every key as it is, in the order of their last writes.
func (b *Bucket) Entries(ctx context.Context) ([]Entry, error) {
	latest, err := b.latest(ctx, start{filter: ">"})
	return slices.SortedFunc(maps.Values(latest), func(a, b Entry) int { return cmp.Compare(a.Revision, b.Revision) }), err
}

// Keys returns the keys that match a filter, sorted: words with dots between them, where
// * stands for a word and a > at the end for one or more.
func (b *Bucket) Keys(ctx context.Context, filter string) ([]string, error) {
	latest, err := b.latest(ctx, start{filter: filter, keysOnly: true})
	return slices.Sorted(maps.Keys(latest)), err
}

func (b *Bucket) latest(ctx context.Context, from start) (map[string]Entry, error) {
	latest := map[string]Entry{}
	err := b.list(ctx, from, func(e Entry) error {
		if e.Deleted {
			delete(latest, e.Key)
		} else {
			latest[e.Key] = e
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return latest, nil
}

// list calls handle for what was written before the call, each key's last word at the
// least. A server that lags behind for too long is left for another one.
func (b *Bucket) list(ctx context.Context, from start, handle func(Entry) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("list bucket %s: %w", b.kv.Bucket(), err)
		}
	}()
	if from.reach, err = b.newestOf(ctx, from.filter); err != nil || from.reach == 0 {
		return err
	}
	for range listTries {
		from.after, err = b.tell(ctx, from, handle)
		from.changes = from.after > 0
		if !errors.Is(err, errBehind) {
			return err
		}
	}
	return err
}

// listTries bounds the servers that are asked for one list.
const listTries = 3

// tell is one reading of a list, which it returns the newest revision of.
func (b *Bucket) tell(ctx context.Context, from start, handle func(Entry) error) (revision uint64, err error) {
	r, err := b.read(ctx, from)
	if err != nil {
		return from.after, err
	}
	defer r.close()
	for {
		e, more, err := r.next(ctx)
		switch {
		case ctx.Err() != nil:
			return r.revision, context.Cause(ctx)
		case err != nil || !more:
			return r.revision, err
		}
		if err := handle(e); err != nil {
			return r.revision, err
		}
	}
}
