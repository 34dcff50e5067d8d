package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"sync"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// orderTries bounds how often an order is written anew because another one was quicker.
const orderTries = 5

// orders are what operators want of nodes. It is safe for concurrent use.
type orders struct {
	bucket *bus.Bucket
	// known fails for a node that does not live.
	known func(name string) error
	log   *slog.Logger
	stop  func()

	mu    sync.Mutex // guards what follows
	drain map[wire.NodeID]struct{}
}

// openOrders opens the orders and follows them until they are closed.
func openOrders(ctx context.Context, conn *bus.Conn, known func(string) error, log *slog.Logger) (*orders, error) {
	o := &orders{known: known, log: log, drain: map[wire.NodeID]struct{}{}}
	var err error
	if o.bucket, err = conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketNodes, MaxValueBytes: wire.MaxNodeOrder}); err != nil {
		return nil, err
	}
	o.stop, err = o.bucket.Watch(context.WithoutCancel(ctx), o.heard, func() {})
	return o, err
}

func (o *orders) close() { o.stop() }

func (o *orders) heard(e bus.Entry) {
	var order wire.NodeOrder
	if !e.Deleted {
		if err := json.Unmarshal(e.Value, &order); err != nil {
			o.log.Warn("order ignored", telemetry.KeyNode, e.Key, telemetry.KeyError, err)
			return // as the node does
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if order.Draining {
		o.drain[wire.NodeID(e.Key)] = struct{}{}
	} else {
		delete(o.drain, wire.NodeID(e.Key))
	}
}

// draining returns the nodes that are to drain, which is the caller's.
func (o *orders) draining() map[wire.NodeID]struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.drain)
}

// read returns the entry of what is wanted of a node; its revision is 0 for nothing. It
// fails for a node that is not known.
func (o *orders) read(ctx context.Context, name string) (e bus.Entry, err error) {
	err = bus.ErrNotFound
	if wire.ValidName(name) { // else it is no key
		e, err = o.bucket.Get(ctx, name)
	}
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return bus.Entry{}, o.known(name)
	case err != nil:
		return bus.Entry{}, wire.Errorf(wire.CodeUnavailable, "what is wanted of node %s could not be read: %s", name, err)
	}
	return e, nil
}

// of reads what is wanted of a node. It fails for a node that is not known.
func (o *orders) of(ctx context.Context, name string) (order wire.NodeOrder, err error) {
	e, err := o.read(ctx, name)
	if err != nil || e.Revision == 0 {
		return order, err
	}
	if err := json.Unmarshal(e.Value, &order); err != nil {
		return order, wire.Errorf(wire.CodeInternal,
			"what is wanted of node %s is not readable: %s; say anew whether it is to drain, with `dayfly drain`", name, err)
	}
	return order, nil
}

// change changes what is wanted of a node by compare-and-set. What is not readable is
// taken for nothing, so that it can be overwritten.
func (o *orders) change(ctx context.Context, name string, change func(old wire.NodeOrder, revision uint64) (wire.NodeOrder, error)) (wire.NodeOrder, error) {
	for range orderTries {
		e, err := o.read(ctx, name)
		if err != nil {
			return wire.NodeOrder{}, err
		}
		var old wire.NodeOrder
		if e.Revision != 0 && json.Unmarshal(e.Value, &old) != nil {
			old = wire.NodeOrder{}
		}
		next, err := change(old, e.Revision)
		switch {
		case err == nil:
			return next, nil
		case !errors.Is(err, bus.ErrExists) && !errors.Is(err, bus.ErrConflict) && !errors.Is(err, bus.ErrNotFound):
			return next, wire.Errorf(wire.CodeUnavailable, "what is wanted of node %s could not be written: %s", name, err)
		}
	}
	return wire.NodeOrder{}, wire.Errorf(wire.CodeConflict, "others change what is wanted of node %s; try again", name)
}
