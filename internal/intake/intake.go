// Package intake takes events in: when it says that an event is accepted, the event is
// on disk and will be run, or end among the dead letters.
package intake

import (
	"context"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

// Defaults of a [Config].
const (
	DefaultRetention  = 7 * 24 * time.Hour
	DefaultWindow     = 24 * time.Hour
	DefaultQueueBytes = 8 << 30
)

const (
	// AckWait is how long a worker may be silent about an event that it holds, before
	// the event is given to another one.
	AckWait = 5 * time.Second
	// maxHeld bounds the events of one queue that workers hold or that wait for their
	// next attempt. Beyond it those that were never tried wait for these.
	maxHeld = 100_000
	// maxQueues bounds the queues that have a consumer.
	maxQueues = 1 << 20
	// duplicates is how long an event's ID is remembered after the event is done.
	// While it waits its subject refuses a second one, and afterwards its record does.
	duplicates = 10 * time.Minute
	// maxKeyBytes bounds the idempotency keys that are remembered: some million.
	maxKeyBytes = 1 << 30
	// waitingEvents and waitingBytes bound what waits in this process to be stored.
	waitingEvents = 10_000
	waitingBytes  = 128 << 20
)

// Config says what is kept and for how long.
type Config struct {
	// Retention is how long records stay, and the outputs that they name.
	Retention time.Duration
	// Window is how long a caller's idempotency key is remembered.
	Window time.Duration
	// QueueBytes bounds the accepted events that wait; beyond it new ones are refused.
	QueueBytes int64
	// Replicas is how many NATS servers keep each stream; 0 for one.
	Replicas int
}

// Intake accepts events. It is a lifecycle service and safe for concurrent use.
type Intake struct {
	cfg   Config
	conn  *bus.Conn
	store *blob.Store
	log   *slog.Logger

	events  *bus.Committer
	keys    *bus.Committer
	records *records.Store

	queues queues
}

// New makes an intake. Zero values in the config mean the defaults.
func New(cfg Config, conn *bus.Conn, store *blob.Store, log *slog.Logger) *Intake {
	if cfg.Retention == 0 {
		cfg.Retention = DefaultRetention
	}
	if cfg.Window == 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = DefaultQueueBytes
	}
	return &Intake{
		cfg: cfg, conn: conn, store: store, log: log,
		events:  conn.NewCommitter(waitingEvents, waitingBytes),
		keys:    conn.NewCommitter(waitingEvents, waitingBytes),
		records: records.New(conn),
	}
}

// Start opens the streams of events and of what becomes of them.
func (in *Intake) Start(ctx context.Context) error {
	for _, s := range in.streams() {
		if err := in.conn.EnsureStream(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// Stop has nothing to do: every Accept ends by itself.
func (in *Intake) Stop(context.Context) error { return nil }

// Retention is how long records stay, and the outputs that they name.
func (in *Intake) Retention() time.Duration { return in.cfg.Retention }

// DeadLetterAge is how long dead letters stay.
const DeadLetterAge = 14 * 24 * time.Hour

func (in *Intake) streams() []bus.StreamConfig {
	return append([]bus.StreamConfig{
		{
			// What was accepted makes no room for others: they are refused.
			Name: wire.StreamEvents, Subjects: []string{wire.AllEvents}, MaxBytes: in.cfg.QueueBytes, MaxPerSubject: 1,
			MaxConsumers: maxQueues, Queue: true, Refuse: true, Batches: true, Duplicates: duplicates, Replicas: in.cfg.Replicas,
		},
		{
			// A plain stream rather than a key-value bucket, for that takes no batches.
			Name: wire.StreamIdempotency, Subjects: []string{wire.AllIdempotency}, MaxAge: in.cfg.Window, MaxBytes: maxKeyBytes,
			MaxPerSubject: 1, Refuse: true, Batches: true, Duplicates: min(duplicates, in.cfg.Window), Replicas: in.cfg.Replicas,
		},
		{
			// A dead letter that finds no room leaves its event in the queue.
			Name: wire.StreamDeadLetters, Subjects: []string{wire.AllDeadLetters}, MaxAge: DeadLetterAge, MaxBytes: in.cfg.QueueBytes,
			MaxPerSubject: 1, Refuse: true, Duplicates: duplicates, Replicas: in.cfg.Replicas,
		},
	}, records.Streams(in.cfg.Retention, in.cfg.Replicas)...)
}
