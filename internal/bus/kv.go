package bus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
// use. All errors but the named ones mean that NATS could not be asked.
type Bucket struct {
	conn   *Conn
	kv     jetstream.KeyValue
	stream string // that holds it
}

// Bucket opens a bucket, creating it when there is none yet.
func (c *Conn) Bucket(ctx context.Context, cfg BucketConfig) (*Bucket, error) {
	want := jetstream.KeyValueConfig{
		Bucket: cfg.Name, TTL: cfg.TTL, History: 1, MaxValueSize: cfg.MaxValueBytes,
		Storage: jetstream.FileStorage, Replicas: cmp.Or(cfg.Replicas, c.replicas),
	}
	var kv jetstream.KeyValue
	err := placed(ctx, func(ctx context.Context) (err error) {
		kv, err = c.js.CreateKeyValue(ctx, want)
		return err
	})
	if errors.Is(err, jetstream.ErrBucketExists) {
		kv, err = c.js.KeyValue(ctx, cfg.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", cfg.Name, err)
	}
	return &Bucket{conn: c, kv: kv, stream: "KV_" + cfg.Name}, nil
}

// Get reads a key or fails with [ErrNotFound]. It asks the server that leads: the
// client's own way asks any of those that keep the bucket, and one that lags behind
// would not know what was written a moment ago.
func (b *Bucket) Get(ctx context.Context, key string) (Entry, error) {
	question, err := json.Marshal(map[string]string{"last_by_subj": "$KV." + b.kv.Bucket() + "." + key})
	if err != nil {
		return Entry{}, mapError("get", key, err)
	}
	ctx, cancel := b.conn.untilLost(ctx)
	defer cancel()
	ctx, expire := context.WithTimeout(ctx, getBound)
	defer expire()
	data, err := b.conn.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+b.stream, question)
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64    `json:"seq"`
			Headers  []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err == nil {
		err = json.Unmarshal(data.Data, &answer)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		err = jetstream.ErrKeyNotFound
	case answer.Error != nil:
		err = answer.Error
	case bytes.Contains(answer.Message.Headers, []byte(headerOperation)): // only a removal has one
		err = jetstream.ErrKeyDeleted
	}
	if err != nil {
		return Entry{}, mapError("get", key, err)
	}
	return Entry{Key: key, Value: answer.Message.Data, Revision: answer.Message.Sequence, At: answer.Message.Time}, nil
}

const (
	// headerOperation marks a message of a bucket that removes its key.
	headerOperation = "KV-Operation"
	// getBound limits a read: a cluster without a leader does not answer.
	getBound = 5 * time.Second
)

// Create writes a key that must not exist, or fails with [ErrExists].
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	revision, err = b.kv.Create(ctx, key, value)
	return revision, mapError("create", key, err)
}

// Update writes a key that is still at revision, or fails with [ErrConflict].
func (b *Bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	next, err := b.kv.Update(ctx, key, value, revision)
	return next, mapError("update", key, err)
}

// Delete removes a key that is still at revision, or fails with [ErrConflict].
func (b *Bucket) Delete(ctx context.Context, key string, revision uint64) error {
	return mapError("delete", key, b.kv.Purge(ctx, key, jetstream.LastRevision(revision)))
}

// Watch calls handle for every key as it is, then once with ready, then for
// every change, one at a time and in order, until ctx is done or the returned
// stop is called. It survives reconnects.
func (b *Bucket) Watch(ctx context.Context, handle func(Entry), ready func()) (stop func(), err error) {
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch bucket %s: %w", b.kv.Bucket(), err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.Updates() {
			if e == nil {
				ready()
				continue
			}
			handle(Entry{
				Key: e.Key(), Value: e.Value(), Revision: e.Revision(), At: e.Created(),
				Deleted: e.Operation() != jetstream.KeyValuePut,
			})
		}
	}()
	return func() { _ = w.Stop(); <-done }, nil
}

// Entries returns every key as it is.
func (b *Bucket) Entries(ctx context.Context) (entries []Entry, err error) {
	w, err := b.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", b.kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, open := <-w.Updates():
			switch {
			case !open:
				return nil, fmt.Errorf("list bucket %s: broken off", b.kv.Bucket())
			case e == nil: // that is all
				return entries, nil
			}
			entries = append(entries, Entry{Key: e.Key(), Value: e.Value(), Revision: e.Revision(), At: e.Created()})
		case <-ctx.Done():
			return nil, fmt.Errorf("list bucket %s: %w", b.kv.Bucket(), context.Cause(ctx))
		}
	}
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
