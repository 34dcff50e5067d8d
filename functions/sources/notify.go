package sources

import (
	"context"
	"errors"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/s3event"
	"github.com/dayfly-run/dayfly/wire"
)

// Notify hands a notification of one bucket to the triggers that watch it, and reports
// whether there may be one. When it returns no error, they have it.
func Notify(ctx context.Context, conn *bus.Conn, bucket string, document []byte) (watched bool, err error) {
	_, err = conn.Send(ctx, bus.Outgoing{Subject: wire.BucketSubject(bucket), Data: document})
	if errors.Is(err, bus.ErrNoResponders) {
		return false, nil
	}
	return err == nil, err
}

// Watch is what an S3 server of ours calls at every change, but for those of one bucket.
func Watch(conn *bus.Conn, but string) func(context.Context, s3event.Change) error {
	return func(ctx context.Context, c s3event.Change) error {
		if c.Bucket == but {
			return nil
		}
		document, err := c.Document()
		if err != nil {
			return err
		}
		_, err = Notify(ctx, conn, c.Bucket, document)
		return err
	}
}
