package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// watchBeat is how often the server says that there is nothing new, and watchSilence
	// how long it may say nothing at all before the reading begins anew.
	watchBeat, watchSilence = 2 * time.Second, 5 * time.Second
	// watchPauseMin and watchPauseMax bound the growing pause before that.
	watchPauseMin, watchPauseMax = 50 * time.Millisecond, time.Second
	// watchTries bounds the attempts to begin at all.
	watchTries = 3
	// watchIdle is how long the server keeps what nobody listens to any more.
	watchIdle = 30 * time.Second
)

// Why a reading of a bucket ends before its reader wants it to.
var (
	errGap         = errors.New("a message got lost")
	errWatchSilent = errors.New("the server is silent")
)

// Watch calls handle for every key as it is, then once with ready, then for
// every change, one at a time and in order, until ctx is done or the returned
// stop is called. A reading that breaks off, with the connection or with the server that
// sends it, begins anew behind what was handled.
func (b *Bucket) Watch(ctx context.Context, handle func(Entry), ready func()) (stop func(), err error) {
	return b.WatchKeys(ctx, ">", handle, ready)
}

// WatchKeys is [Bucket.Watch] of the keys that match a filter only; see [Bucket.Keys].
func (b *Bucket) WatchKeys(ctx context.Context, filter string, handle func(Entry), ready func()) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	r, err := b.read(ctx, filter, 0, false)
	for range watchTries - 1 { // a cluster that is busy with itself may drop a question
		if starting(err) {
			r, err = b.read(ctx, filter, 0, false)
		}
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch bucket %s: %w", b.kv.Bucket(), err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.watch(ctx, r, filter, handle, ready)
	}()
	return func() { cancel(); <-done }, nil
}

// watch reads until ctx is done.
func (b *Bucket) watch(ctx context.Context, r *reading, filter string, handle func(Entry), ready func()) {
	for pause := watchPauseMin; ; {
		var err error
		for ctx.Err() == nil && err == nil {
			var e Entry
			var more bool
			if e, more, err = r.next(ctx); err != nil {
				break
			}
			if pause = watchPauseMin; more {
				handle(e)
			} else if ready != nil {
				ready()
				ready = nil
			}
		}
		r.close()
		for again := true; again; again = err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
				pause = min(2*pause, watchPauseMax)
			}
			b.conn.log.Debug("watch of a bucket begins anew", "bucket", b.kv.Bucket(), "error", err)
			var next *reading
			if next, err = b.read(ctx, filter, r.revision, false); err == nil {
				r = next
			}
		}
	}
}

// list calls handle for every key that matches a filter as it is now.
func (b *Bucket) list(ctx context.Context, filter string, keysOnly bool, handle func(Entry)) error {
	r, err := b.read(ctx, filter, 0, keysOnly)
	if err != nil {
		return err
	}
	defer r.close()
	for {
		e, more, err := r.next(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil || !more:
			return err
		case !e.Deleted:
			handle(e)
		}
	}
}

// reading is a consumer of a bucket's stream that a server keeps in memory and sends what
// it has by itself. It is for one goroutine.
type reading struct {
	bucket *Bucket
	name   string
	sub    *nats.Subscription
	// lost is done when the connection was lost since.
	lost   context.Context //nolint:containedctx // it is the connection's life, not a call's
	forget context.CancelFunc
	// revision is that of the newest entry that was read, count how many messages came,
	// and there how many were there at the start; -1 once they are read.
	revision, count uint64
	there           int64
}

// read opens a reading of the keys that match a filter, behind a revision.
func (b *Bucket) read(ctx context.Context, filter string, after uint64, keysOnly bool) (*reading, error) {
	subject := "$KV." + b.kv.Bucket() + "." + filter
	cfg := jetstream.ConsumerConfig{
		DeliverSubject: b.conn.nc.NewInbox(), FilterSubject: subject, HeadersOnly: keysOnly,
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
		FlowControl: true, IdleHeartbeat: watchBeat, InactiveThreshold: watchIdle, MemoryStorage: true, Replicas: 1,
	}
	if after > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, after+1
	}
	r := &reading{bucket: b, revision: after}
	r.lost, r.forget = b.conn.untilLost(context.WithoutCancel(ctx))
	var err error
	if r.sub, err = b.conn.nc.SubscribeSync(cfg.DeliverSubject); err != nil {
		r.forget()
		return nil, err
	}
	var consumer jetstream.PushConsumer
	if err := b.conn.ask(ctx, askBound, func(ctx context.Context) error {
		consumer, err = b.conn.js.CreatePushConsumer(ctx, b.stream, cfg)
		return err
	}); err != nil {
		r.close()
		return nil, err
	}
	info := consumer.CachedInfo()
	r.name, r.there = info.Name, int64(info.NumPending) //nolint:gosec // a bucket has fewer keys
	return r, nil
}

// next returns the next entry; without more it says, once, that all that was there at the
// start was read.
func (r *reading) next(ctx context.Context) (e Entry, more bool, err error) {
	for {
		if r.there == 0 {
			r.there = -1
			return Entry{}, false, nil
		}
		m, err := r.message(ctx)
		if err != nil {
			return Entry{}, false, err
		}
		if m.Header.Get("Status") == "" {
			e, fresh, err := r.entry(m)
			if fresh || err != nil {
				return e, fresh, err
			}
			continue
		}
		if err := r.status(m); err != nil {
			return Entry{}, false, err
		}
	}
}

func (r *reading) message(ctx context.Context) (*nats.Msg, error) {
	wait, cancel := context.WithTimeoutCause(ctx, watchSilence, errWatchSilent)
	defer cancel()
	stop := context.AfterFunc(r.lost, cancel)
	defer stop()
	m, err := r.sub.NextMsgWithContext(wait)
	switch {
	case err == nil:
		return m, nil
	case r.lost.Err() != nil:
		return nil, errLost
	case wait.Err() != nil:
		return nil, context.Cause(wait)
	}
	return nil, err
}

// entry reads a message of the stream; one that was read before is not fresh.
func (r *reading) entry(m *nats.Msg) (e Entry, fresh bool, err error) {
	meta, err := readMeta(m)
	if err != nil {
		return e, false, err
	}
	if r.count++; meta.consumerSequence != r.count {
		return e, false, errGap
	}
	if r.there > 0 {
		if r.there--; meta.pending == 0 { // some may have gone meanwhile
			r.there = 0
		}
	}
	if meta.sequence <= r.revision {
		return e, false, nil
	}
	r.revision = meta.sequence
	return Entry{
		Key: strings.TrimPrefix(m.Subject, "$KV."+r.bucket.kv.Bucket()+"."), Value: m.Data, Revision: meta.sequence, At: meta.at,
		Deleted: m.Header.Get(headerOperation) != "" || m.Header.Get(jetstream.MarkerReasonHeader) != "",
	}, true, nil
}

// status takes what the server says when it has no message: that it is there, or that it
// goes on once this is answered.
func (r *reading) status(m *nats.Msg) error {
	if m.Header.Get("Status") != "100" {
		return fmt.Errorf("the server ended the reading: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
	}
	stalled := m.Header.Get("Nats-Consumer-Stalled")
	switch {
	case m.Reply != "":
		return m.Respond(nil)
	case stalled != "":
		return r.bucket.conn.nc.Publish(stalled, nil)
	}
	if last := m.Header.Get("Nats-Last-Consumer"); last != "" && last != fmt.Sprint(r.count) {
		return errGap
	}
	if r.there > 0 { // all that was there has gone meanwhile
		r.there = 0
	}
	return nil
}

// close ends the reading, and lets the server forget it without waiting for that.
func (r *reading) close() {
	r.forget()
	_ = r.sub.Unsubscribe() // fails only when there is nothing to end
	if r.name != "" {
		nc := r.bucket.conn.nc
		// It goes by itself a little later in any case.
		_ = nc.PublishRequest("$JS.API.CONSUMER.DELETE."+r.bucket.stream+"."+r.name, nc.NewInbox(), nil)
	}
}
