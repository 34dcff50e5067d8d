package bus

import (
	"context"
	"fmt"
	"slices"
)

// Keys returns the keys that match a filter, sorted: words with dots between them, where
// * stands for a word and a > at the end for one or more.
func (b *Bucket) Keys(ctx context.Context, filter string) (keys []string, err error) {
	if err := b.list(ctx, filter, true, func(e Entry) { keys = append(keys, e.Key) }); err != nil {
		return nil, fmt.Errorf("list %s: %w", b.kv.Bucket(), err)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}
