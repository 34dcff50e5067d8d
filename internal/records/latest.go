package records

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// MaxList bounds a list of records.
const MaxList = 1000

// OfEvent is the record of an event of a function in a state, without its attempts.
func OfEvent(e wire.Event, f wire.FunctionID, state wire.State) wire.Record {
	return wire.Record{
		Invocation: e.Invocation, Version: wire.VersionID{FunctionID: f}, State: state,
		Source: e.Source, AcceptedAt: e.AcceptedAt, Cause: e.Cause, Redrives: e.Redrives,
	}
}

// newer is that of two records of an invocation, the stored one and the passing one,
// which says how it is now.
func newer(stored, passing wire.Record) wire.Record {
	switch {
	case passing.Redrives != stored.Redrives:
		if passing.Redrives > stored.Redrives {
			return passing
		}
	case !stored.State.Final() && passing.StartedAt.After(stored.EndedAt): // the attempt after the one that failed
		return passing
	}
	return stored
}

// Latest returns how an invocation is now, by what is stored of it, what passes, and the
// queue of events; [bus.ErrNotFound] where nothing is known.
func (s *Store) Latest(ctx context.Context, id wire.InvocationID) (wire.Record, error) {
	entry, err := s.Find(ctx, id)
	if err != nil {
		return wire.Record{}, err
	}
	known, found := entry.Record, entry.Revision > 0
	passing, passes, err := s.passing(ctx, id)
	if err != nil {
		return wire.Record{}, err
	}
	switch {
	case found && passes:
		known = newer(known, passing)
	case passes:
		known, found = passing, true
	}
	waiting, waits, err := s.waiting(ctx, id)
	switch {
	case err != nil:
		return wire.Record{}, err
	case waits && (!found || waiting.Redrives > known.Redrives):
		return waiting, nil
	case !found:
		return wire.Record{}, bus.ErrNotFound
	}
	return known, nil
}

// passing reads what was noted of an invocation.
func (s *Store) passing(ctx context.Context, id wire.InvocationID) (r wire.Record, found bool, err error) {
	data, err := s.conn.Last(ctx, wire.StreamRecords, wire.AnyRecordSubject(id))
	if errors.Is(err, bus.ErrNotFound) {
		return r, false, nil
	}
	if err == nil {
		r, err = decode(data)
	}
	return r, err == nil, err
}

// waiting is the record of an event that is in its queue.
func (s *Store) waiting(ctx context.Context, id wire.InvocationID) (r wire.Record, waits bool, err error) {
	m, err := s.conn.LastMessage(ctx, wire.StreamEvents, wire.AnyEventSubject(id))
	if errors.Is(err, bus.ErrNotFound) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	var e wire.Event
	if _, err := wire.ParseFrame(m.Data, &e); err != nil {
		return r, false, fmt.Errorf("event %s is damaged: %w", id, err)
	}
	var f wire.FunctionID
	if ref, err := wire.ParseRef(e.Ref); err == nil {
		f = ref.FunctionID
	}
	r = OfEvent(e, f, wire.StateAccepted)
	r.Attempts = e.Attempts
	return r, true, nil
}

func decode(data []byte) (r wire.Record, err error) {
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("a record is damaged: %w", err)
	}
	return r, nil
}

// List returns the newest records of a function, newest first, at most [MaxList] of each
// kind: stored, passing, and events that were not tried yet.
func (s *Store) List(ctx context.Context, f wire.FunctionID) ([]wire.Record, error) {
	newest := map[wire.InvocationID]wire.Record{}
	for _, from := range []struct{ stream, subject string }{
		{wire.StreamStoredRecords, wire.FunctionStoredRecords(f)},
		{wire.StreamRecords, wire.FunctionRecords(f)}, // the passing ones
	} {
		read := bus.ReadOptions{Stream: from.stream, Subject: from.subject, Tail: MaxList}
		err := s.conn.Read(ctx, read, func(m bus.StreamMsg) error {
			r, err := decode(m.Data)
			if err != nil {
				return err
			}
			if stored, ok := newest[r.Invocation]; ok {
				r = newer(stored, r)
			}
			newest[r.Invocation] = r
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := s.addWaiting(ctx, f, newest); err != nil {
		return nil, err
	}
	list := make([]wire.Record, 0, len(newest))
	for _, r := range newest {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b wire.Record) int { return cmp.Compare(b.Invocation, a.Invocation) })
	return list, nil
}

// addWaiting adds the events of a function that are in its queues and were not tried
// yet. Their IDs tell when they came.
func (s *Store) addWaiting(ctx context.Context, f wire.FunctionID, newest map[wire.InvocationID]wire.Record) error {
	for partition := range wire.EventPartitions + 1 {
		q := wire.EventQueue{FunctionID: f, Partition: partition}
		subjects, err := s.conn.Subjects(ctx, wire.StreamEvents, q.Events())
		if err != nil {
			return err
		}
		for _, subject := range subjects[max(0, len(subjects)-MaxList):] {
			id := wire.InvocationID(subject[strings.LastIndexByte(subject, '.')+1:])
			if _, known := newest[id]; known {
				continue
			}
			r := wire.Record{Invocation: id, State: wire.StateAccepted}
			r.Version.FunctionID = f
			if u, err := uuid.Parse(string(id)); err == nil {
				r.AcceptedAt = time.Unix(u.Time().UnixTime())
			}
			newest[id] = r
		}
	}
	return nil
}
