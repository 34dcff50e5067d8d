// Package garbage removes from S3 what nothing refers to any more, safely against those
// who are about to refer to it.
//
// An object that nothing refers to is noted in a key-value bucket, by its key. It is
// removed when three things hold: its note is a whole grace old by the clock of NATS, it
// is still referred to by nothing, as read after that, and the note can be changed to
// "deleting" by compare-and-set. Who wants to refer to an object, whether it is there
// already or not, calls [Keeper.Keep] first, which writes the note anew and so begins
// another grace; while the object is being removed that waits. Whoever keeps an object
// must refer to it, or have given up, within the grace.
//
// S3 knows no fencing, so a removal that was begun must be over within deleteBound, and
// a note that says "deleting" is not believed any more after takeover, which is longer.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// SafeGrace is longer than any build may take: with a shorter one, a deploy that takes
	// longer fails, or finds later that its artifact is gone. MinGrace is the shortest that
	// is of use, where builds are quick, and MaxGrace the longest: notes live for noteTTL.
	SafeGrace = 15 * time.Minute
	MinGrace  = 10 * time.Second
	MaxGrace  = 7 * 24 * time.Hour
	noteTTL   = 30 * 24 * time.Hour

	deleteBound = 10 * time.Second
	takeover    = 30 * time.Second
	// lookEvery is how often who waits for a removal looks whether it is over.
	lookEvery = 50 * time.Millisecond
)

// What a note says.
const (
	noted    = "noted"
	deleting = "deleting"
)

// Keeper tells collectors what is about to be used. It is safe for concurrent use and
// needs no closing.
type Keeper struct {
	bucket   *bus.Bucket
	takeover time.Duration
}

// OpenKeeper opens the notes, making their bucket when there is none.
func OpenKeeper(ctx context.Context, conn *bus.Conn) (*Keeper, error) {
	bucket, err := openNotes(ctx, conn)
	if err != nil {
		return nil, err
	}
	return &Keeper{bucket: bucket, takeover: takeover}, nil
}

func openNotes(ctx context.Context, conn *bus.Conn) (*bus.Bucket, error) {
	return conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketGarbage, TTL: noteTTL, MaxValueBytes: 1 << 10})
}

// Keep keeps an object from being removed for a whole grace from now on, by its key. It
// may be there or not: look afterwards. An error, a [*wire.Error] with code unavailable,
// means that it may be removed at any time.
func (k *Keeper) Keep(ctx context.Context, key string) error {
	var seen uint64 // the revision of a removal under way, and since when it is known
	var since time.Time
	for {
		note, err := k.bucket.Get(ctx, key)
		switch {
		case errors.Is(err, bus.ErrNotFound):
			_, err = k.bucket.Create(ctx, key, []byte(noted))
		case err != nil:
			return unavailable(key, err)
		case string(note.Value) != deleting, note.Revision == seen && time.Since(since) > k.takeover:
			_, err = k.bucket.Update(ctx, key, []byte(noted), note.Revision)
		default:
			if note.Revision != seen {
				seen, since = note.Revision, time.Now()
			}
			if err := pause(ctx, lookEvery); err != nil {
				return unavailable(key, err)
			}
			continue
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, bus.ErrExists) && !errors.Is(err, bus.ErrConflict):
			return unavailable(key, err)
		}
	}
}

func unavailable(key string, err error) error {
	return wire.Errorf(wire.CodeUnavailable, "%s could not be kept from being removed: %s", key, err)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("given up: %w", context.Cause(ctx))
	}
}
