package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Why a reading of a bucket ends before its reader wants it to.
var (
	errGap         = errors.New("a message got lost")
	errWatchSilent = errors.New("the server is silent")
	errBehind      = errors.New("the server lags behind the one that leads")
)

// behindBound is how long a server that sends a bucket may lag behind the one that leads
// before another one is asked.
const behindBound = 5 * time.Second

// start is where a reading begins.
type start struct {
	filter string
	// after is a revision up to which all was read before.
	after uint64
	// changes is for what was written behind that only. Otherwise all keys are looked at,
	// and those that changed behind it are told.
	changes bool
	// reach is the revision up to which a reading tells what was there at its start. The
	// server that sends it may be one that has not got so far yet.
	reach    uint64
	keysOnly bool
}

// reading is a consumer of a bucket's stream that a server keeps in memory and sends what
// it has by itself. It is for one goroutine.
type reading struct {
	bucket *Bucket
	start
	name string
	sub  *nats.Subscription
	// lost is done when the connection was lost since.
	lost   context.Context //nolint:containedctx // it is the connection's life, not a call's
	forget context.CancelFunc
	// revision is that of the newest entry that was told, read that of the newest message,
	// and count how many messages came.
	revision, read, count uint64
	// there is how many messages the server had at the start that did not come yet; -1
	// once all is told that was there.
	there int64
	// look says that it is time to ask the leader whether something is missing, and since
	// when it is known to be.
	look    bool
	missing time.Time
	// heard is when the server last said something, by the time of day.
	heard time.Time
	// present are the keys that are there, where all of them are looked at again.
	present map[string]struct{}
}

// last asks the server that leads a bucket for the revision of the newest entry or
// removal that matches a filter; 0 for none.
func (b *Bucket) last(ctx context.Context, filter string) (uint64, error) {
	m, err := b.newest(ctx, filter)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	return m.Sequence, err
}

// read opens a reading.
func (b *Bucket) read(ctx context.Context, from start) (*reading, error) {
	cfg := jetstream.ConsumerConfig{
		DeliverSubject: b.conn.nc.NewInbox(), FilterSubject: b.subject(from.filter), HeadersOnly: from.keysOnly,
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
		FlowControl: true, IdleHeartbeat: watchBeat, InactiveThreshold: watchIdle, MemoryStorage: true, Replicas: 1,
	}
	r := &reading{bucket: b, start: from, revision: from.after, look: true, heard: time.Now().Round(0)}
	switch {
	case from.changes:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from.after+1
		r.read = from.after
	case from.after > 0:
		r.present = map[string]struct{}{}
	}
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
		if whole, err := r.whole(ctx); whole || err != nil {
			return Entry{}, false, err
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

// whole says, once, that all that was there at the start was read. When the server has
// sent all that it has and something is missing still, that may have been removed since;
// so the leader is asked again, at every beat.
func (r *reading) whole(ctx context.Context) (bool, error) {
	if r.there != 0 || r.read < r.reach && !r.look {
		return false, nil
	}
	if r.read < r.reach {
		r.look = false
		last, err := r.bucket.newestOf(ctx, r.filter)
		if err != nil {
			return false, err
		}
		r.reach = min(r.reach, last)
	}
	now := time.Now()
	switch {
	case r.read >= r.reach:
		r.there = -1
		return true, nil
	case r.missing.IsZero():
		r.missing = now
	case now.Sub(r.missing) >= r.bucket.patience:
		return false, errBehind
	}
	return false, nil
}

func (r *reading) message(ctx context.Context) (*nats.Msg, error) {
	wait, cancel := context.WithTimeoutCause(ctx, watchSilence, errWatchSilent)
	defer cancel()
	stop := context.AfterFunc(r.lost, cancel)
	defer stop()
	m, err := r.sub.NextMsgWithContext(wait)
	switch {
	case err == nil:
		r.heard = time.Now().Round(0)
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
	r.read = max(r.read, meta.sequence)
	e = Entry{
		Key: strings.TrimPrefix(m.Subject, r.bucket.subject("")), Value: m.Data, Revision: meta.sequence, At: meta.at,
		Deleted: m.Header.Get(headerOperation) != "" || m.Header.Get(jetstream.MarkerReasonHeader) != "",
	}
	if r.present != nil {
		if e.Deleted {
			delete(r.present, e.Key)
		} else {
			r.present[e.Key] = struct{}{}
		}
	}
	if meta.sequence <= r.revision {
		return e, false, nil
	}
	r.revision = meta.sequence
	return e, true, nil
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
	r.look = true
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

// newest asks the server that leads a bucket for the newest message of keys that match a
// filter, be it a removal. It fails with jetstream.ErrKeyNotFound where there is none.
func (b *Bucket) newest(ctx context.Context, filter string) (newestMessage, error) {
	question, err := json.Marshal(map[string]string{"last_by_subj": b.subject(filter)})
	if err != nil {
		return newestMessage{}, err
	}
	data, err := b.conn.query(ctx, &nats.Msg{Subject: "$JS.API.STREAM.MSG.GET." + b.stream, Data: question})
	if err != nil {
		return newestMessage{}, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message newestMessage       `json:"message"`
	}
	err = json.Unmarshal(data.Data, &answer)
	switch {
	case err != nil:
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		err = jetstream.ErrKeyNotFound
	case answer.Error != nil:
		err = answer.Error
	}
	return answer.Message, err
}

// newestMessage is a message as JetStream answers with it.
type newestMessage struct {
	Sequence uint64    `json:"seq"`
	Headers  []byte    `json:"hdrs"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}
