package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// errWatchEnded: the server took the watcher away before it had told all.
var errWatchEnded = errors.New("the server ended the list")

// Keys returns the keys that match a filter, sorted: words with dots between them, where
// * stands for a word and a > at the end for one or more.
func (b *Bucket) Keys(ctx context.Context, filter string) (keys []string, err error) {
	w, err := b.kv.Watch(ctx, filter, jetstream.IgnoreDeletes(), jetstream.MetaOnly())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", b.kv.Bucket(), err)
	}
	defer func() {
		_ = w.Stop()
		for range w.Updates() { // whoever fills it could not end before it is empty
		}
	}()
	for {
		select {
		case e, more := <-w.Updates():
			switch {
			case !more:
				return nil, fmt.Errorf("list %s: %w", b.kv.Bucket(), errWatchEnded)
			case e == nil:
				slices.Sort(keys)
				return slices.Compact(keys), nil
			}
			keys = append(keys, e.Key())
		case <-ctx.Done():
			return nil, fmt.Errorf("list %s: %w", b.kv.Bucket(), context.Cause(ctx))
		}
	}
}
