package roots

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// Index lists the cluster's roots. It is safe for concurrent use and needs no
// closing.
type Index struct{ bucket *bus.Bucket }

// OpenIndex opens the index, making it when there is none.
func OpenIndex(ctx context.Context, conn *bus.Conn) (*Index, error) {
	bucket, err := conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketRoots, MaxValueBytes: 16 << 10})
	if err != nil {
		return nil, err
	}
	return &Index{bucket: bucket}, nil
}

// List returns all roots, by name, the latest first.
func (i *Index) List(ctx context.Context) ([]wire.Root, error) {
	entries, err := i.bucket.Entries(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]wire.Root, 0, len(entries))
	for _, e := range entries {
		root, err := decode(e)
		if err != nil {
			return nil, err
		}
		list = append(list, root)
	}
	slices.SortFunc(list, func(a, b wire.Root) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return b.BuiltAt.Compare(a.BuiltAt)
	})
	return list, nil
}

// Watch calls changed after every change of the index, one call at a time, until ctx
// is done or stop is called. It survives reconnects.
func (i *Index) Watch(ctx context.Context, changed func()) (stop func(), err error) {
	return i.bucket.Updates(ctx, func(bus.Entry) { changed() })
}

func decode(e bus.Entry) (root wire.Root, err error) {
	if err := json.Unmarshal(e.Value, &root); err != nil {
		return root, fmt.Errorf("index of roots: key %s is damaged: %w", e.Key, err)
	}
	return root, nil
}
