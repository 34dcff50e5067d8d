package settings

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	thumbnail = wire.FunctionID{Namespace: "team-a", Name: "thumbnail"}
	other     = wire.FunctionID{Namespace: "team-a", Name: "thumbnail-2"}
	now       = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
)

// ring makes a ring of keys that are told apart by a byte.
func ring(t *testing.T, keys ...byte) *keyring.Ring {
	t.Helper()
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{k}, 32)) + "\n")
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, conn *bus.Conn, r *keyring.Ring) *Store {
	t.Helper()
	s := New(conn, r)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T) *Store {
	t.Helper()
	return open(t, embedtest.Connect(t, embedtest.NATS(t, t.TempDir())), ring(t, 1))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code wire.Code, words string) {
	t.Helper()
	if !wire.HasCode(err, code) || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %s with %q", err, code, words)
	}
}

func set(t *testing.T, s *Store, id wire.FunctionID, name, value string) {
	t.Helper()
	_, err := s.SetSecret(t.Context(), id, name, functions.NewSecret(value), now)
	must(t, err)
}

// load returns the plain values of secrets.
func load(t *testing.T, s *Store, id wire.FunctionID, names ...string) map[string]string {
	t.Helper()
	f := NewLive(s, embedtest.Discard()).Follow(id)
	defer f.Close()
	values, err := f.Load(t.Context(), uses(names...))
	must(t, err)
	plain := map[string]string{}
	for name, value := range values {
		plain[name] = value.Reveal()
	}
	return plain
}

func uses(names ...string) (all []functions.SecretUse) {
	for _, name := range names {
		all = append(all, functions.SecretUse{Name: name, As: functions.SecretAsBoth})
	}
	return all
}

func TestConfig(t *testing.T) {
	s := start(t)
	none, err := s.Config(t.Context(), thumbnail)
	must(t, err)
	if diff := cmp.Diff(functions.Config{Revision: "0", Values: map[string]string{}}, none); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	first, err := s.ChangeConfig(t.Context(), thumbnail, map[string]string{"A": "1", "B": "2"}, nil)
	must(t, err)
	second, err := s.ChangeConfig(t.Context(), thumbnail, map[string]string{"A": "3"}, []string{"B", "C"})
	must(t, err)
	if diff := cmp.Diff(map[string]string{"A": "3"}, second.Values); diff != "" || first.Revision == second.Revision {
		t.Errorf("revisions %s and %s (-want +got):\n%s", first.Revision, second.Revision, diff)
	}
	same, err := s.ChangeConfig(t.Context(), thumbnail, map[string]string{"A": "3"}, []string{"B"})
	must(t, err)
	read, err := s.Config(t.Context(), thumbnail)
	must(t, err)
	if diff := cmp.Diff(second, read); diff != "" || same.Revision != second.Revision {
		t.Errorf("a change of nothing: revision %s (-want +got):\n%s", same.Revision, diff)
	}
	if c, err := s.Config(t.Context(), other); err != nil || len(c.Values) != 0 {
		t.Errorf("another function has %v, %v", c, err)
	}
}

func TestConfigIsBounded(t *testing.T) {
	s := start(t)
	many := map[string]string{}
	for i := range wire.MaxConfigKeys {
		many[fmt.Sprintf("K%d", i)] = ""
	}
	for _, test := range []struct {
		set  map[string]string
		code wire.Code
		want string
	}{
		{map[string]string{"A B": ""}, wire.CodeInvalid, "is not a name"},
		{map[string]string{"": ""}, wire.CodeInvalid, "is not a name"},
		{map[string]string{strings.Repeat("A", functions.MaxConfigKeyBytes+1): ""}, wire.CodeInvalid, "129 bytes"},
		{map[string]string{"A": "\xff"}, wire.CodeInvalid, "no UTF-8"},
		{map[string]string{"A": strings.Repeat("x", wire.MaxConfigBytes)}, wire.CodeTooLarge, "65537 bytes"},
	} {
		_, err := s.ChangeConfig(t.Context(), thumbnail, test.set, nil)
		wantCode(t, err, test.code, test.want)
	}
	// What takes most room as JSON is stored all the same.
	_, err := s.ChangeConfig(t.Context(), thumbnail, map[string]string{"A": strings.Repeat("\x01", wire.MaxConfigBytes-1)}, nil)
	must(t, err)
	_, err = s.ChangeConfig(t.Context(), thumbnail, many, []string{"A"})
	must(t, err)
	_, err = s.ChangeConfig(t.Context(), thumbnail, map[string]string{"one.more": ""}, nil)
	wantCode(t, err, wire.CodeTooLarge, "101 values")
}

// Changes by many at once are all kept.
func TestConfigIsComparedAndSet(t *testing.T) {
	s := start(t)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for k := range 10 {
				for { // who loses too often is told, and tries again
					_, err := s.ChangeConfig(context.Background(), thumbnail, map[string]string{fmt.Sprintf("K%d_%d", i, k): "x"}, nil)
					if wire.HasCode(err, wire.CodeConflict) {
						continue
					}
					if err != nil {
						t.Error(err)
					}
					break
				}
			}
		})
	}
	all.Wait()
	config, err := s.Config(t.Context(), thumbnail)
	if err != nil || len(config.Values) != 60 {
		t.Errorf("%d values, %v", len(config.Values), err)
	}
}

func TestSecrets(t *testing.T) {
	s := start(t)
	set(t, s, thumbnail, "A", "one")
	set(t, s, thumbnail, "B", strings.Repeat("x", functions.MaxSecretBytes))
	set(t, s, thumbnail, "A", "two")
	if got := load(t, s, thumbnail, "A"); got["A"] != "two" {
		t.Errorf("got %q", got)
	}
	list, err := s.Secrets(t.Context(), thumbnail)
	must(t, err)
	if diff := cmp.Diff([]functions.SecretInfo{{Name: "A", UpdatedAt: now}, {Name: "B", UpdatedAt: now}}, list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	must(t, s.Require(t.Context(), thumbnail, uses("A", "B")))
	must(t, s.Require(t.Context(), other, nil))
	wantCode(t, s.Require(t.Context(), thumbnail, uses("A", "C", "D")), wire.CodeConflict,
		"not set: C, D; set them with:\n  dayfly secrets set thumbnail.team-a C\n  dayfly secrets set thumbnail.team-a D")
	wantCode(t, s.Require(t.Context(), other, uses("A")), wire.CodeConflict, "not set: A")
	must(t, s.UnsetSecret(t.Context(), thumbnail, "A"))
	wantCode(t, s.UnsetSecret(t.Context(), thumbnail, "A"), wire.CodeNotFound, "no secret A")
	wantCode(t, s.UnsetSecret(t.Context(), thumbnail, "*"), wire.CodeInvalid, "")
	set(t, s, thumbnail, "A", "again")
	if got := load(t, s, thumbnail, "A"); got["A"] != "again" {
		t.Errorf("got %q", got)
	}
	for value, words := range map[string]string{"": "is empty", "a\x00b": "no text", "\xff": "no text"} {
		_, err := s.SetSecret(t.Context(), thumbnail, "A", functions.NewSecret(value), now)
		wantCode(t, err, wire.CodeInvalid, words)
	}
	_, err = s.SetSecret(t.Context(), thumbnail, "A", functions.NewSecret(strings.Repeat("x", functions.MaxSecretBytes+1)), now)
	wantCode(t, err, wire.CodeTooLarge, "32769 bytes")
	_, err = s.SetSecret(t.Context(), thumbnail, "A.B", functions.NewSecret("x"), now)
	wantCode(t, err, wire.CodeInvalid, "not a variable's name")
}

func TestSecretsAreBounded(t *testing.T) {
	s := start(t)
	for i := range functions.MaxStoredSecrets {
		set(t, s, thumbnail, fmt.Sprintf("S%d", i), "x")
	}
	_, err := s.SetSecret(t.Context(), thumbnail, "MORE", functions.NewSecret("x"), now)
	wantCode(t, err, wire.CodeTooLarge, "has 100 secrets already")
	set(t, s, thumbnail, "S0", "y")
	set(t, s, other, "MORE", "x")
}

// A sealed value is of one function and name: in another's place it does not open.
func TestSealedSecretsCannotBeSwapped(t *testing.T) {
	s := start(t)
	set(t, s, thumbnail, "A", "mine")
	set(t, s, thumbnail, "B", "b")
	set(t, s, other, "A", "theirs")
	stolen, err := s.secrets.Get(t.Context(), wire.SecretKey(thumbnail, "A"))
	must(t, err)
	for _, place := range []struct {
		id   wire.FunctionID
		name string
	}{{thumbnail, "B"}, {other, "A"}} {
		key := wire.SecretKey(place.id, place.name)
		e, err := s.secrets.Get(t.Context(), key)
		must(t, err)
		_, err = s.secrets.Update(t.Context(), key, stolen.Value, e.Revision)
		must(t, err)
		_, err = NewLive(s, embedtest.Discard()).Follow(place.id).Load(t.Context(), uses(place.name))
		wantCode(t, err, wire.CodeConflict, "sealed for something else")
	}
}

func TestForget(t *testing.T) {
	s := start(t)
	for _, id := range []wire.FunctionID{thumbnail, other} {
		set(t, s, id, "A", "x")
		_, err := s.ChangeConfig(t.Context(), id, map[string]string{"K": "v"}, nil)
		must(t, err)
	}
	for _, want := range []bool{true, false} {
		if had, err := s.Forget(t.Context(), thumbnail); err != nil || had != want {
			t.Errorf("had %t, %v", had, err)
		}
	}
	list, err := s.Secrets(t.Context(), thumbnail)
	must(t, err)
	config, err := s.Config(t.Context(), thumbnail)
	must(t, err)
	if len(list) != 0 || len(config.Values) != 0 {
		t.Errorf("left %v, %v", list, config)
	}
	if got := load(t, s, other, "A"); got["A"] != "x" {
		t.Errorf("another function has %q", got)
	}
}

func TestWithoutAKey(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	full, s := open(t, conn, ring(t, 1)), open(t, conn, nil)
	set(t, full, thumbnail, "A", "x")
	_, err := s.SetSecret(t.Context(), thumbnail, "A", functions.NewSecret("y"), now)
	wantCode(t, err, wire.CodeConflict, "--secrets-key")
	wantCode(t, s.Require(t.Context(), thumbnail, uses("A")), wire.CodeConflict, "--secrets-key")
	_, err = s.Rotate(t.Context())
	wantCode(t, err, wire.CodeConflict, "--secrets-key")
	_, err = NewLive(s, embedtest.Discard()).Follow(thumbnail).Load(t.Context(), uses("A"))
	wantCode(t, err, wire.CodeConflict, "--secrets-key")
	// Everything else works.
	must(t, s.Require(t.Context(), thumbnail, nil))
	if list, err := s.Secrets(t.Context(), thumbnail); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	wrong := open(t, conn, ring(t, 2))
	wantCode(t, wrong.Require(t.Context(), thumbnail, uses("A")), wire.CodeConflict, "not in the file")
	_, err = NewLive(wrong, embedtest.Discard()).Follow(thumbnail).Load(t.Context(), uses("A"))
	wantCode(t, err, wire.CodeConflict, "not in the file")
	must(t, s.UnsetSecret(t.Context(), thumbnail, "A"))
}

// TestRotate: the file's key changes in three steps, and every step is one at which all
// is readable, also when it was broken off.
func TestRotate(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	old, both, fresh := open(t, conn, ring(t, 1)), open(t, conn, ring(t, 2, 1)), open(t, conn, ring(t, 2))
	want := map[string]string{}
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("S%d", i)
		names, want[name] = append(names, name), fmt.Sprintf("value %d", i)
		set(t, old, thumbnail, name, want[name])
	}
	before, err := old.secrets.Get(t.Context(), wire.SecretKey(thumbnail, "S0"))
	must(t, err)
	// Broken off: the context ends after some.
	for i := range 5 {
		must(t, both.reseal(t.Context(), thumbnail, names[i]))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := both.Rotate(ended); err == nil {
		t.Error("a rotation that nobody waits for")
	}
	if diff := cmp.Diff(want, load(t, both, thumbnail, names...)); diff != "" {
		t.Errorf("half way (-want +got):\n%s", diff)
	}
	_, err = fresh.Rotate(t.Context())
	wantCode(t, err, wire.CodeConflict, "5 secrets are sealed anew, 15 are not")
	count, err := both.Rotate(t.Context())
	if err != nil || count != 20 {
		t.Errorf("%d are sealed, %v", count, err)
	}
	if diff := cmp.Diff(want, load(t, fresh, thumbnail, names...)); diff != "" {
		t.Errorf("without the old key (-want +got):\n%s", diff)
	}
	wantCode(t, old.Require(t.Context(), thumbnail, uses("S0")), wire.CodeConflict, "not in the file")
	after, err := old.secrets.Get(t.Context(), wire.SecretKey(thumbnail, "S0"))
	must(t, err)
	if bytes.Equal(before.Value, after.Value) {
		t.Error("it is sealed as before")
	}
	list, err := fresh.Secrets(t.Context(), thumbnail)
	must(t, err)
	if !list[0].UpdatedAt.Equal(now) {
		t.Errorf("a rotation is no change of a value: %v", list[0])
	}
}

// Values that are set while all are sealed anew are kept.
func TestRotateBesideChanges(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	s := open(t, conn, ring(t, 1))
	for i := range 8 {
		set(t, s, thumbnail, fmt.Sprintf("S%d", i), "first")
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for range 5 {
				if _, err := s.Rotate(context.Background()); err != nil && !wire.HasCode(err, wire.CodeConflict) {
					t.Error(err)
				}
			}
		})
	}
	for i := range 8 {
		all.Go(func() {
			for k := range 10 {
				for {
					_, err := s.SetSecret(context.Background(), thumbnail, fmt.Sprintf("S%d", i), functions.NewSecret(fmt.Sprintf("v%d", k)), now)
					if err == nil {
						break
					}
					if !wire.HasCode(err, wire.CodeConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	for i := range 8 {
		name := fmt.Sprintf("S%d", i)
		if got := load(t, s, thumbnail, name); got[name] != "v9" {
			t.Errorf("%s is %q", name, got[name])
		}
	}
}

// TestNothingOnDiskShowsASecret: nothing that the server stores has a value in it.
func TestNothingOnDiskShowsASecret(t *testing.T) {
	const secret, plain = "hunter2-in-the-clear", "configuration-in-the-clear"
	dir := t.TempDir()
	s := open(t, embedtest.Connect(t, embedtest.NATS(t, dir)), ring(t, 1))
	set(t, s, thumbnail, "A", secret)
	_, err := s.Rotate(t.Context())
	must(t, err)
	_, err = s.ChangeConfig(t.Context(), thumbnail, map[string]string{"K": plain}, nil)
	must(t, err)
	found := map[string]bool{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, text := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), plain} {
			found[text] = found[text] || bytes.Contains(data, []byte(text))
		}
		return err
	}))
	if !found[plain] {
		t.Error("the search finds nothing at all")
	}
	if delete(found, plain); found[secret] || len(found) != 2 {
		t.Errorf("found %v", found)
	}
}
