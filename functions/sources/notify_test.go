package sources

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/s3event"
	"github.com/dayfly-run/dayfly/wire"
)

// TestWatchTellsThoseWhoListen: Dayfly's own bucket makes no events, nor does one that
// nobody watches.
func TestWatchTellsThoseWhoListen(t *testing.T) {
	s, conn := open(t, Config{})
	trigger := onBucket("up.loads")
	if err := s.Prepare(t.Context(), orders, []functions.Trigger{trigger, onBucket("dayfly-own")}); err != nil {
		t.Fatal(err)
	}
	tell := Watch(conn, "dayfly-own")
	for _, bucket := range []string{"up.loads", "dayfly-own", "unwatched"} {
		if err := tell(t.Context(), s3event.Change{Event: "ObjectCreated:Put", Bucket: bucket, Key: "a", At: time.Now()}); err != nil {
			t.Errorf("%s: %v", bucket, err)
		}
	}
	if n := count(t, conn, orders, trigger, wire.BucketSubject("up.loads")); n != 1 {
		t.Errorf("told %d times", n)
	}
	if n := count(t, conn, orders, onBucket("dayfly-own"), wire.BucketSubject("dayfly-own")); n != 0 {
		t.Errorf("told %d times of Dayfly's own", n)
	}
	if watched, err := Notify(t.Context(), conn, "unwatched", nil); watched || err != nil {
		t.Errorf("%t, %v", watched, err)
	}
	// An S3 server that knows NATS publishes by itself, without JetStream.
	if err := conn.Publish("dayfly.notifications", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Send(t.Context(), bus.Outgoing{Subject: "dayfly.notifications"}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, conn, orders, trigger, wire.BucketSubject("up.loads")); n != 2 {
		t.Errorf("heard %d of two", n)
	}
}
