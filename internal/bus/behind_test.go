package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// lagging is a bucket with a and b, whose server that sends it has not got c yet, which
// the one that leads has. It catches up when it was asked for the times-th time what is
// missing.
func lagging(t *testing.T, times int, patience time.Duration) *bus.Bucket {
	t.Helper()
	b := openBucket(t, open(t), 0)
	write(t, b, "a")
	missing := write(t, b, "b") + 1
	asked := 0
	return bus.Behind(b, patience, func(ctx context.Context, _ string) (uint64, error) {
		if asked++; asked == times+1 { // the first question is before anything is sent
			if c, err := b.Create(ctx, "c", nil); err != nil || c != missing {
				t.Errorf("revision %d, want %d; %v", c, missing, err)
			}
		}
		return missing, nil
	})
}

func wantKeys(t *testing.T, b *bus.Bucket, want ...string) {
	t.Helper()
	keys, err := b.Keys(t.Context(), ">")
	if diff := cmp.Diff(want, keys); diff != "" || err != nil {
		t.Errorf("keys (-want +got):\n%s%v", diff, err)
	}
}

// TestListOfAServerThatLags: a list has what was written before it was asked for, whoever
// sends it.
func TestListOfAServerThatLags(t *testing.T) {
	wantKeys(t, lagging(t, 1, time.Hour), "a", "b", "c")
	entries, err := lagging(t, 1, time.Hour).Entries(t.Context())
	if err != nil || len(entries) != 3 || entries[2].Key != "c" {
		t.Errorf("entries %+v, %v", entries, err)
	}
	w := watch(t, lagging(t, 1, time.Hour))
	embedtest.Receive(t, w.ready)
	if n := len(w.entries); n != 3 {
		t.Errorf("%d entries before ready, want 3", n)
	}
}

// TestListOfAServerThatLagsForLong: another one is asked behind what that one had.
func TestListOfAServerThatLagsForLong(t *testing.T) {
	t.Parallel()
	wantKeys(t, lagging(t, 3, 0), "a", "b", "c")
}

// TestListOfAServerThatLagsForEver is none.
func TestListOfAServerThatLagsForEver(t *testing.T) {
	t.Parallel()
	keys, err := lagging(t, 1000, 0).Keys(t.Context(), ">")
	if err == nil || len(keys) != 0 {
		t.Errorf("keys %v, %v", keys, err)
	}
}

// TestListWhoseNewestKeyGoes: what is missing may be gone, and the leader says so.
func TestListWhoseNewestKeyGoes(t *testing.T) {
	b := openBucket(t, open(t), 0)
	last := write(t, b, "a")
	answers := []uint64{last + 5, last}
	wantKeys(t, bus.Behind(b, time.Hour, func(context.Context, string) (uint64, error) {
		answer := answers[0]
		answers = answers[1:]
		return answer, nil
	}), "a")
}

// TestListWithoutALeader fails: nobody knows what is missing.
func TestListWithoutALeader(t *testing.T) {
	b := openBucket(t, open(t), 0)
	write(t, b, "a")
	gone := errors.New("no leader")
	if _, err := bus.Behind(b, time.Hour, func(context.Context, string) (uint64, error) { return 0, gone }).Entries(t.Context()); !errors.Is(err, gone) {
		t.Error(err)
	}
}

// TestListOfWhatChangesMeanwhile: the last word counts, also when it is a removal.
func TestListOfWhatChangesMeanwhile(t *testing.T) {
	b := openBucket(t, open(t), 0)
	a := write(t, b, "a")
	old := write(t, b, "b")
	asked := 0
	list, err := bus.Behind(b, time.Hour, func(ctx context.Context, _ string) (uint64, error) {
		if asked++; asked == 2 {
			_, err := b.Update(ctx, "a", []byte("new"), a)
			if err = errors.Join(err, b.Delete(ctx, "b", old)); err != nil {
				t.Error(err)
			}
		}
		return old + 2, nil
	}).Entries(t.Context())
	if err != nil || len(list) != 1 || list[0].Key != "a" || string(list[0].Value) != "new" {
		t.Errorf("entries %+v, %v", list, err)
	}
}

// TestListOfOldKeys: others are newer than the ones that match.
func TestListOfOldKeys(t *testing.T) {
	b := openBucket(t, open(t), 0)
	for _, key := range []string{"x.a", "x.b", "y.c"} {
		write(t, b, key)
	}
	e, err := b.Get(t.Context(), "x.b")
	if err == nil {
		err = b.Delete(t.Context(), "x.b", e.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string][]string{"x.>": {"x.a"}, "y.*": {"y.c"}, "z.>": nil} {
		if keys, err := b.Keys(t.Context(), filter); err != nil || !cmp.Equal(want, keys) {
			t.Errorf("%s: keys %v, want %v; %v", filter, keys, want, err)
		}
	}
}

// TestEach tells of keys as they are until its handler fails.
func TestEach(t *testing.T) {
	b := openBucket(t, open(t), 0)
	var keys []string
	each := func(fail error) error {
		return b.Each(t.Context(), func(e bus.Entry) error {
			keys = append(keys, e.Key)
			return fail
		})
	}
	if err := each(nil); err != nil || len(keys) != 0 {
		t.Errorf("of nothing: %v, %v", keys, err)
	}
	write(t, b, "a")
	write(t, b, "b")
	if err := each(nil); err != nil || !cmp.Equal(keys, []string{"a", "b"}) {
		t.Errorf("keys %v, %v", keys, err)
	}
	enough := errors.New("enough")
	if err := each(enough); !errors.Is(err, enough) || len(keys) != 3 {
		t.Errorf("keys %v, %v", keys, err)
	}
}
