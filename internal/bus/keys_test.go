package bus_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
)

func TestKeys(t *testing.T) {
	conn := open(t)
	b, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "listed", MaxValueBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	list := func(filter string, want ...string) {
		t.Helper()
		got, err := b.Keys(t.Context(), filter)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", filter, err, diff)
		}
	}
	list(">")
	for _, key := range []string{"a.c.y", "a.b.z", "a.b.x", "b.b.x"} {
		if _, err := b.Create(t.Context(), key, []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	e, err := b.Get(t.Context(), "a.c.y")
	if err == nil {
		err = b.Delete(t.Context(), e.Key, e.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	list(">", "a.b.x", "a.b.z", "b.b.x")
	list("a.b.*", "a.b.x", "a.b.z")
	list("a.*")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Keys(ended, ">"); err == nil {
		t.Error("a list for nobody")
	}
}
