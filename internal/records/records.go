// Package records keeps what is known of invocations. A record of an event is written
// by compare-and-set, so that of two who hold one event only one decides its fate.
package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// waiting and waitingBytes bound what waits in this process to be written.
	waiting      = 10_000
	waitingBytes = 64 << 20
	// maxMessage and maxType bound what an attempt says of its failure, in bytes: with
	// [wire.MaxAttempts] of them, and six bytes of JSON for one at worst, a record must
	// fit into one message of NATS.
	maxMessage = 512
	maxType    = 128
)

// Streams lists where records are kept, for as long as retention says.
func Streams(retention time.Duration, replicas int) []bus.StreamConfig {
	return []bus.StreamConfig{
		{
			Name: wire.StreamRecords, Subjects: []string{wire.AllRecords}, MaxAge: min(24*time.Hour, retention), MaxBytes: 256 << 20,
			MaxPerSubject: 1, Async: true, Replicas: replicas,
		},
		{
			Name: wire.StreamStoredRecords, Subjects: []string{wire.AllStoredRecords}, MaxAge: retention, MaxBytes: 4 << 30,
			MaxPerSubject: 1, Batches: true, Replicas: replicas,
		},
	}
}

// Store reads and writes records. It is safe for concurrent use.
type Store struct {
	conn   *bus.Conn
	stored *bus.Committer
}

// New makes a store.
func New(conn *bus.Conn) *Store {
	return &Store{conn: conn, stored: conn.NewCommitter(waiting, waitingBytes)}
}

// Entry is the record of an event at a revision, 0 for none.
type Entry struct {
	wire.Record
	Revision uint64
}

// Settled reports whether an event is over, as it was put in its queue.
func (e Entry) Settled(event wire.Event) bool {
	return e.Revision > 0 && e.State.Final() && e.Redrives >= event.Redrives
}

// Read returns the durable record of an invocation; without one the entry is empty.
func (s *Store) Read(ctx context.Context, f wire.FunctionID, id wire.InvocationID) (e Entry, err error) {
	return s.read(ctx, wire.StoredRecordSubject(f, id))
}

// Find is [Store.Read] for one whose function is not known.
func (s *Store) Find(ctx context.Context, id wire.InvocationID) (Entry, error) {
	return s.read(ctx, wire.AnyStoredRecordSubject(id))
}

func (s *Store) read(ctx context.Context, subject string) (e Entry, err error) {
	m, err := s.conn.LastMessage(ctx, wire.StreamStoredRecords, subject)
	if errors.Is(err, bus.ErrNotFound) {
		return Entry{}, nil
	}
	if err != nil {
		return Entry{}, err
	}
	e.Revision = m.Sequence
	if err := json.Unmarshal(m.Data, &e.Record); err != nil {
		return Entry{}, fmt.Errorf("record %s is damaged: %w", m.Subject, err)
	}
	return e, nil
}

// Write puts the record of an event on disk in the place of the one at the revision, 0
// for none, or fails with [bus.ErrConflict].
func (s *Store) Write(ctx context.Context, r wire.Record, revision uint64) (Entry, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return Entry{}, err
	}
	stored, err := s.stored.Store(ctx, bus.Message{
		Subject: wire.StoredRecordSubject(r.Version.FunctionID, r.Invocation), Expect: &revision, Data: data,
	})
	return Entry{Record: r, Revision: stored.Sequence}, err
}

// Note says what passes, that an event runs for example. It is not on disk, and does not
// wait.
func (s *Store) Note(r wire.Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.conn.Publish(wire.RecordSubject(r.Version.FunctionID, r.Invocation), data)
}

// AddAttempt appends an attempt to those of a record, and makes it the one that the
// record tells of. What failed is told in full of the latest attempt only, and only once.
func AddAttempt(r *wire.Record, attempts []wire.Attempt, latest wire.Attempt) {
	r.Version, r.Node, r.Instance, r.Cold = latest.Version, latest.Node, latest.Instance, latest.Cold
	r.StartedAt, r.EndedAt, r.InitMicros, r.RunMicros = latest.StartedAt, latest.EndedAt, latest.InitMicros, latest.RunMicros
	r.Error = latest.Error
	if e := latest.Error; e != nil {
		latest.Error = &wire.Error{
			Code: e.Code, Message: head(e.Message, maxMessage), Type: head(e.Type, maxType),
			RetryAfterMillis: e.RetryAfterMillis, Retryable: e.Retryable,
		}
	}
	kept := attempts[max(0, len(attempts)+1-wire.MaxAttempts):]
	r.Attempts = append(kept[:len(kept):len(kept)], latest)
}

// head is the beginning of a text, of at most n bytes, in whole characters.
func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
