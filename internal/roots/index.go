package roots

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

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
	var list []wire.Root
	var damaged error
	whole := make(chan struct{})
	ready := sync.OnceFunc(func() { close(whole) })
	stop, err := i.bucket.Watch(ctx, func(e bus.Entry) {
		select {
		case <-whole: // a change since
			return
		default:
		}
		if e.Deleted {
			return
		}
		root, err := decode(e)
		damaged = errors.Join(damaged, err)
		list = append(list, root)
	}, ready)
	if err != nil {
		return nil, err
	}
	select {
	case <-whole:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	stop() // nothing is called from here on
	if err = errors.Join(err, damaged); err != nil {
		return nil, err
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
	complete := false // both functions are called by one goroutine
	return i.bucket.Watch(ctx, func(bus.Entry) {
		if complete {
			changed()
		}
	}, func() { complete = true })
}

func decode(e bus.Entry) (root wire.Root, err error) {
	if err := json.Unmarshal(e.Value, &root); err != nil {
		return root, fmt.Errorf("index of roots: key %s is damaged: %w", e.Key, err)
	}
	return root, nil
}
