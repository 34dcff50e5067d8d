package settings

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// follow starts what follows a store, which ends with the test.
func follow(t *testing.T, s *Store) *Live {
	t.Helper()
	l := NewLive(s, embedtest.Discard())
	must(t, l.Start(t.Context()))
	t.Cleanup(func() {
		for range 2 {
			if err := l.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// awaitChange waits until what is read is as wanted.
func awaitChange[T any](t *testing.T, read func() (T, <-chan struct{}), is func(T) bool) T {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		got, changed := read()
		if is(got) {
			return got
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("it stays %v", got)
		}
	}
}

func TestFollowConfig(t *testing.T) {
	s := start(t)
	l := follow(t, s)
	_, err := s.ChangeConfig(t.Context(), thumbnail, map[string]string{"A": "0"}, nil)
	must(t, err)
	f, unread := l.Follow(thumbnail), l.Follow(thumbnail)
	defer f.Close()
	defer unread.Close()
	first, _, err := f.Config(t.Context())
	if err != nil || first.Values["A"] != "0" {
		t.Fatalf("at first %v, %v", first, err)
	}
	read := func() (functions.Config, <-chan struct{}) {
		c, changed, err := f.Config(t.Context())
		must(t, err)
		return c, changed
	}
	for i := range 20 {
		want, err := s.ChangeConfig(t.Context(), thumbnail, map[string]string{"A": fmt.Sprint(i)}, nil)
		must(t, err)
		_, err = s.ChangeConfig(t.Context(), other, map[string]string{"A": "other"}, nil)
		must(t, err)
		got := awaitChange(t, read, func(c functions.Config) bool { return c.Revision == want.Revision })
		if got.Values["A"] != fmt.Sprint(i) {
			t.Errorf("%v", got)
		}
	}
	_, err = s.Forget(t.Context(), thumbnail)
	must(t, err)
	awaitChange(t, read, func(c functions.Config) bool { return len(c.Values) == 0 && c.Revision == functions.NoConfigRevision })
}

func TestFollowSecrets(t *testing.T) {
	s := start(t)
	l := follow(t, s)
	for _, name := range []string{"A", "B", "C"} {
		set(t, s, thumbnail, name, "first")
	}
	f := l.Follow(thumbnail)
	defer f.Close()
	loaded, err := f.Load(t.Context(), uses("A", "B"))
	if err != nil || len(loaded) != 2 || loaded["A"].Reveal() != "first" {
		t.Fatalf("%v, %v", loaded, err)
	}
	set(t, s, thumbnail, "C", "second")
	set(t, s, thumbnail, "A", "second")
	must(t, s.UnsetSecret(t.Context(), thumbnail, "B"))
	got := awaitChange(t, f.Secrets, func(all map[string]functions.Secret) bool {
		_, left := all["B"]
		return all["A"].Reveal() == "second" && !left
	})
	if _, asked := got["C"]; asked {
		t.Error("a secret that nobody asked for is held")
	}
	set(t, s, thumbnail, "B", "third")
	awaitChange(t, f.Secrets, func(all map[string]functions.Secret) bool { return all["B"].Reveal() == "third" })
}

// Whoever starts at the same time as a value is set has it in the end, and nothing of
// functions that nobody follows is held.
func TestFollowBesideChanges(t *testing.T) {
	s := start(t)
	l := follow(t, s)
	set(t, s, thumbnail, "A", "0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; i <= 50; i++ {
			if _, err := s.SetSecret(context.Background(), thumbnail, "A", functions.NewSecret(fmt.Sprint(i)), now); err != nil {
				t.Error(err)
			}
		}
	}()
	for over := false; !over; {
		f := l.Follow(thumbnail)
		_, err := f.Load(t.Context(), uses("A"))
		must(t, err)
		select {
		case <-done:
			over = true
			awaitChange(t, f.Secrets, func(all map[string]functions.Secret) bool { return all["A"].Reveal() == "50" })
		default:
		}
		f.Close()
		f.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.followed) != 0 {
		t.Errorf("%d functions are held", len(l.followed))
	}
}

func TestLoadOfWhatIsNotSet(t *testing.T) {
	s := start(t)
	f := follow(t, s).Follow(thumbnail)
	defer f.Close()
	_, err := f.Load(t.Context(), uses("A"))
	wantCode(t, err, "conflict", "dayfly secrets set thumbnail.team-a A")
}
