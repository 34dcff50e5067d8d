package bus

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// BucketConfig describes a key-value bucket.
type BucketConfig struct {
	Name string
	// TTL is how long a key lives after its last write; zero for ever.
	TTL time.Duration
	// MaxValueBytes bounds one value.
	MaxValueBytes int32
	// Replicas is how many servers keep it; 0 for the connection's own number.
	Replicas int
}

// Entry is one key's value at a revision. Deleted entries come from Watch only.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
	// At is when it was written, by the clock of NATS.
	At      time.Time
	Deleted bool
}

// Bucket is a key-value bucket, durable in JetStream. It is safe for concurrent
// use. All errors but the named ones mean that NATS could not be asked, or did not answer
// within five seconds; a write may have been made then.
type Bucket struct {
	conn   *Conn
	kv     jetstream.KeyValue
	stream string // that holds it
	// markerTTL is how long a removal is remembered; 0 for as long as the bucket keeps keys.
	markerTTL time.Duration
	// newestOf asks the server that leads for the revision of what was written last of the
	// keys that match a filter, 0 for nothing; patience is how long one that sends the
	// bucket may lag behind it.
	newestOf func(ctx context.Context, filter string) (revision uint64, err error)
	patience time.Duration
}

// MarkerTTL is how long a bucket that keeps its keys for ever remembers that one was
// removed. A watcher that was away for longer than half of it looks at all keys again.
const MarkerTTL = 48 * time.Hour

// Bucket opens a bucket, creating it when there is none yet.
func (c *Conn) Bucket(ctx context.Context, cfg BucketConfig) (*Bucket, error) {
	want := jetstream.KeyValueConfig{
		Bucket: cfg.Name, TTL: cfg.TTL, History: 1, MaxValueSize: cfg.MaxValueBytes,
		Storage: jetstream.FileStorage, Replicas: cmp.Or(cfg.Replicas, c.replicas),
	}
	if cfg.TTL == 0 {
		want.LimitMarkerTTL = MarkerTTL
	}
	var kv jetstream.KeyValue
	err := c.placed(ctx, func(ctx context.Context) (err error) {
		kv, err = c.js.CreateKeyValue(ctx, want)
		return err
	})
	if errors.Is(err, jetstream.ErrBucketExists) { // as others made it
		err = c.again(ctx, func(ctx context.Context) (err error) {
			if kv, err = c.js.KeyValue(ctx, cfg.Name); err != nil {
				return err
			}
			status, err := kv.Status(ctx)
			if err == nil {
				want.LimitMarkerTTL = status.LimitMarkerTTL()
			}
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", cfg.Name, err)
	}
	b := &Bucket{conn: c, kv: kv, stream: "KV_" + cfg.Name, markerTTL: want.LimitMarkerTTL, patience: behindBound}
	b.newestOf = b.last
	return b, nil
}

// Get reads a key or fails with [ErrNotFound]. It asks the server that leads: the
// client's own way asks any of those that keep the bucket, and one that lags behind
// would not know what was written a moment ago.
func (b *Bucket) Get(ctx context.Context, key string) (Entry, error) {
	m, err := b.newest(ctx, key)
	if err == nil && bytes.Contains(m.Headers, []byte(headerOperation)) { // only a removal has one
		err = jetstream.ErrKeyDeleted
	}
	if err != nil {
		return Entry{}, mapError("get", key, err)
	}
	return Entry{Key: key, Value: m.Data, Revision: m.Sequence, At: m.Time}, nil
}

// subject is that of a key, or of those that match a filter.
func (b *Bucket) subject(filter string) string { return "$KV." + b.kv.Bucket() + "." + filter }

// headerOperation marks a message of a bucket that removes its key.
const headerOperation = "KV-Operation"

// Create writes a key that must not exist, or fails with [ErrExists].
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	err = b.conn.ask(ctx, askBound, func(ctx context.Context) error {
		revision, err = b.kv.Create(ctx, key, value)
		return err
	})
	return revision, mapError("create", key, err)
}

// Update writes a key that is still at revision, or fails with [ErrConflict].
func (b *Bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (next uint64, err error) {
	err = b.conn.ask(ctx, askBound, func(ctx context.Context) error {
		next, err = b.kv.Update(ctx, key, value, revision)
		return err
	})
	return next, mapError("update", key, err)
}

// Delete removes a key that is still at revision, or fails with [ErrConflict]. Watchers
// hear of it, for up to [MarkerTTL]: then the key leaves nothing behind.
func (b *Bucket) Delete(ctx context.Context, key string, revision uint64) error {
	opts := []jetstream.KVDeleteOpt{jetstream.LastRevision(revision)}
	if b.markerTTL > 0 {
		opts = append(opts, jetstream.PurgeTTL(b.markerTTL))
	}
	return mapError("delete", key, b.conn.ask(ctx, askBound, func(ctx context.Context) error {
		return b.kv.Purge(ctx, key, opts...)
	}))
}

func mapError(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted):
		err = ErrNotFound
	case !wrongRevision(err):
	case verb == "create":
		err = ErrExists
	default:
		err = ErrConflict
	}
	return fmt.Errorf("%s %s: %w", verb, key, err)
}

// wrongRevision reports whether the server found another revision than the one
// that was named. jetstream.ErrKeyExists matches every such answer, so it does not
// tell a create from an update; replicated streams have a code of their own.
func wrongRevision(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, jetstream.ErrKeyExists) || ok &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
