package garbage

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
)

// Kind is a folder of S3 that is looked through.
type Kind struct {
	// Prefix is the folder, with its slash.
	Prefix string
	// Grace is how long objects stay that nothing refers to; zero for the collector's.
	Grace time.Duration
}

// Config describes a collector.
type Config struct {
	// Grace is between [MinGrace] and [MaxGrace], and at least [SafeGrace] where builds may
	// take their time. A round is made four times in it, but no less often than every
	// quarter of an hour.
	Grace time.Duration
	Kinds []Kind
}

// Deps are what a collector works with; it closes none of them.
type Deps struct {
	Conn  *bus.Conn
	Store *blob.Store
	// Used returns the keys of all objects that something refers to, as the master data
	// say and not a copy of it, and may remove what refers to objects and was left behind
	// before a moment, by the clock of NATS. After an error nothing is removed.
	Used    func(ctx context.Context, before time.Time) (map[string]bool, error)
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Collector removes what nothing refers to. Any number may run: one of them makes each
// round, and all may. It is a lifecycle service.
type Collector struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	objects *prometheus.CounterVec
	bytes   *prometheus.CounterVec
	bound   time.Duration // of one removal
	wait    time.Duration // before another's removal is taken over
	paused  func()        // tests wait in it, between the word and the deed

	bucket *bus.Bucket // set by Start
	end    context.CancelFunc
	run    sync.WaitGroup
	last   uint64 // revision of the last round that is known; of the loop only
}

// New makes a collector.
func New(cfg Config, deps Deps) *Collector {
	counter := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"kind"})
		deps.Metrics.MustRegister(c)
		return c
	}
	return &Collector{
		cfg: cfg, deps: deps, log: deps.Log, bound: deleteBound, wait: takeover, paused: func() {},
		objects: counter("dayfly_garbage_objects_total", "Objects that were removed from S3 because nothing referred to them, by folder."),
		bytes:   counter("dayfly_garbage_bytes_total", "Bytes of objects that were removed from S3 because nothing referred to them, by folder."),
	}
}

// Start opens the notes and begins to make rounds.
func (c *Collector) Start(ctx context.Context) (err error) {
	if c.bucket, err = openNotes(ctx, c.deps.Conn); err != nil {
		return err
	}
	ctx, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.run.Go(func() { c.loop(ctx) })
	return nil
}

// Stop ends a round that is under way; what it began to remove is removed later.
func (c *Collector) Stop(context.Context) error {
	if c.end != nil {
		c.end()
	}
	c.run.Wait()
	return nil
}

func (c *Collector) loop(ctx context.Context) {
	every := min(c.cfg.Grace/4, 15*time.Minute)
	for {
		// Collectors that were started together do not make their rounds together.
		if pause(ctx, every/2+rand.N(every)) != nil { //nolint:gosec // no secret
			return
		}
		begun, at, err := c.begin(ctx)
		if err == nil && begun {
			err = c.round(ctx, at)
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("garbage was not collected", telemetry.KeyError, err)
		}
	}
}

// roundKey is the note that every round writes anew: who finds that another one has done
// so since it last looked makes no round. It tells what time it is at NATS as well.
const roundKey = "round"

// begin says whether to make a round, and when by the clock of NATS it begins.
func (c *Collector) begin(ctx context.Context) (begun bool, at time.Time, err error) {
	note, err := c.bucket.Get(ctx, roundKey)
	known := c.last
	c.last = note.Revision
	switch {
	case errors.Is(err, bus.ErrNotFound):
		c.last, err = c.bucket.Create(ctx, roundKey, nil)
	case err != nil:
		return false, at, err
	case known != 0 && known != note.Revision:
		return false, at, nil
	default:
		c.last, err = c.bucket.Update(ctx, roundKey, nil, note.Revision)
	}
	switch {
	case errors.Is(err, bus.ErrExists), errors.Is(err, bus.ErrConflict):
		return false, at, nil
	case err != nil:
		return false, at, err
	}
	// A server that is behind answers with an earlier time, which only makes notes younger.
	note, err = c.bucket.Get(ctx, roundKey)
	return err == nil, note.At, err
}

// notable are keys that a note may have. What else lies in a folder is none of ours.
var notable = regexp.MustCompile(`^[-/_=.a-zA-Z0-9]+$`)

// candidate is an object that may be removed, if its note stays as it is.
type candidate struct {
	blob.Info
	kind Kind
	note bus.Entry
}

// round notes what nothing refers to, and removes what was noted a grace ago.
func (c *Collector) round(ctx context.Context, now time.Time) error {
	// The order matters: notes that are old enough now, were so before the references
	// are read.
	notes, err := c.notes(ctx)
	if err != nil {
		return err
	}
	used, err := c.deps.Used(ctx, now.Add(-c.cfg.Grace))
	if err != nil {
		return err
	}
	for _, kind := range c.cfg.Kinds {
		if kind.Grace == 0 {
			kind.Grace = c.cfg.Grace
		}
		var ripe []candidate
		err := c.deps.Store.List(ctx, kind.Prefix, func(o blob.Info) error {
			note, known := notes[o.Key]
			delete(notes, o.Key)
			switch {
			case !notable.MatchString(o.Key):
			case used[o.Key]:
				return c.forget(ctx, note, now, kind.Grace)
			case !known:
				_, err := c.bucket.Create(ctx, o.Key, []byte(noted))
				return unlessChanged(err)
			case string(note.Value) == deleting && now.Sub(note.At) > c.wait,
				string(note.Value) == noted && now.Sub(note.At) >= kind.Grace:
				ripe = append(ripe, candidate{o, kind, note})
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, o := range ripe {
			if err := c.remove(ctx, o); err != nil {
				return err
			}
		}
	}
	for _, note := range notes { // their objects are gone, or were never stored
		grace := c.cfg.Grace
		if string(note.Value) == deleting {
			grace = c.wait
		}
		if err := c.forget(ctx, note, now, grace); err != nil {
			return err
		}
	}
	return nil
}

func (c *Collector) notes(ctx context.Context) (map[string]bus.Entry, error) {
	entries, err := c.bucket.Entries(ctx)
	if err != nil {
		return nil, err
	}
	notes := make(map[string]bus.Entry, len(entries))
	for _, e := range entries {
		if e.Key != roundKey {
			notes[e.Key] = e
		}
	}
	return notes, nil
}

// forget removes a note that is old and of no use any more.
func (c *Collector) forget(ctx context.Context, note bus.Entry, now time.Time, grace time.Duration) error {
	if note.Revision == 0 || now.Sub(note.At) < grace {
		return nil
	}
	return unlessChanged(c.bucket.Delete(ctx, note.Key, note.Revision))
}

// unlessChanged drops the error that says that somebody else was quicker.
func unlessChanged(err error) error {
	if errors.Is(err, bus.ErrExists) || errors.Is(err, bus.ErrConflict) {
		return nil
	}
	return err
}

// remove removes one object, if nobody has written its note since it was read.
func (c *Collector) remove(ctx context.Context, o candidate) error {
	// Counted from before the word, so that the deed is over in time whatever comes
	// between the two.
	bounded, cancel := context.WithTimeout(ctx, c.bound)
	defer cancel()
	revision, err := c.bucket.Update(ctx, o.Key, []byte(deleting), o.note.Revision)
	if err != nil {
		return unlessChanged(err)
	}
	c.paused()
	// After a pause of the process the timer may be late.
	if end, _ := bounded.Deadline(); !time.Now().Before(end) {
		return ctx.Err()
	}
	if err := c.deps.Store.Delete(bounded, o.Key); err != nil {
		// The note stays: whoever comes next takes it over.
		c.log.Warn("an object that nothing refers to was not removed", "key", o.Key, telemetry.KeyError, err)
		return ctx.Err()
	}
	kind := strings.TrimSuffix(o.kind.Prefix, "/")
	c.objects.WithLabelValues(kind).Inc()
	c.bytes.WithLabelValues(kind).Add(float64(o.Bytes))
	c.log.Info("an object that nothing refers to was removed", "key", o.Key, "bytes", o.Bytes)
	return unlessChanged(c.bucket.Delete(ctx, o.Key, revision))
}
