package keyring

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func line(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, keyBytes)) + "\n"
}

func ring(tb testing.TB, text string) *Ring {
	tb.Helper()
	r, err := parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestSealAndOpen(t *testing.T) {
	old, both, other := ring(t, line(1)), ring(t, line(2)+line(1)), ring(t, line(3))
	rapid.Check(t, func(t *rapid.T) {
		value, purpose := rapid.SliceOf(rapid.Byte()).Draw(t, "value"), rapid.String().Draw(t, "purpose")
		sealed, err := old.Seal(value, purpose)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*Ring{old, both} {
			if got, err := r.Open(sealed, purpose); err != nil || !bytes.Equal(got, value) {
				t.Fatalf("%q, %v", got, err)
			}
		}
		if _, err := other.Open(sealed, purpose); !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("another file opens it: %v", err)
		}
		if _, err := old.Open(sealed, purpose+"x"); !errors.Is(err, ErrDamaged) {
			t.Fatalf("it opens for another purpose: %v", err)
		}
		// A single bit anywhere is seen.
		damaged := sealed
		part := rapid.SampledFrom([]*[]byte{&damaged.Wrapped, &damaged.Text}).Draw(t, "part")
		*part = bytes.Clone(*part)
		(*part)[rapid.IntRange(0, len(*part)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := old.Open(damaged, purpose); !errors.Is(err, ErrDamaged) {
			t.Fatalf("damage is not seen: %v", err)
		}
		// Nor does the key of one value open another.
		second, err := old.Seal(value, purpose)
		if err != nil {
			t.Fatal(err)
		}
		second.Wrapped = sealed.Wrapped
		if _, err := old.Open(second, purpose); !errors.Is(err, ErrDamaged) {
			t.Fatalf("keys can be swapped: %v", err)
		}
	})
	if both.Current() == old.Current() || !both.Has(old.Current()) || old.Has(both.Current()) {
		t.Error("the first key is not the one that seals")
	}
	if _, err := old.Open(Sealed{Key: old.Current()}, ""); !errors.Is(err, ErrDamaged) {
		t.Errorf("nothing opens: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	for text, want := range map[string]string{
		"": "no key", "# none\n": "no key", line(1) + "x": "line 2 is no key", line(1) + line(1): "line 2 has the same key",
		base64.StdEncoding.EncodeToString(make([]byte, 31)):   "line 1 is no key",
		base64.StdEncoding.EncodeToString(make([]byte, 3000)): "line 1 is no key",
		strings.Repeat("#", maxFileBytes+1):                   "no key file",
		" # a\n\n\t" + line(1):                                "",
	} {
		_, err := parse([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	var many strings.Builder
	for i := range MaxKeys + 1 {
		many.WriteString(line(byte(i)))
	}
	if _, err := parse([]byte(many.String())); err == nil {
		t.Error("too many keys are taken")
	}
	secret := strings.TrimSuffix(line(7), "=\n") + "!\n"
	if _, err := parse([]byte(secret)); err == nil || strings.Contains(err.Error(), strings.TrimSpace(secret)) {
		t.Errorf("the error shows the line: %v", err)
	}
	if r := ring(t, line(7)); strings.Contains(fmt.Sprint(r), strings.TrimSpace(line(7))) {
		t.Errorf("a ring shows its key: %v", r)
	}
}

func TestLoadOrCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.key")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	// Whoever comes at once gets the same key.
	rings := make([]*Ring, 8)
	var all sync.WaitGroup
	for i := range rings {
		all.Go(func() {
			var err error
			if rings[i], err = LoadOrCreate(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, r := range rings {
		if r.Current() != rings[0].Current() {
			t.Error("two keys were made")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreate(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that everybody reads: %v", err)
	}
}

// FuzzParse: whatever a file holds, it is a ring that works, or an error that shows none
// of it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", line(1), "# x\n" + line(1) + line(2), line(1) + line(1), "====", strings.Repeat("A", 44) + "\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			for _, word := range bytes.Fields(data) {
				if len(word) >= 20 && strings.Contains(err.Error(), string(word)) {
					t.Fatalf("the error shows the file: %v", err)
				}
			}
			return
		}
		sealed, err := r.Seal([]byte("value"), "purpose")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Open(sealed, "purpose"); err != nil || string(got) != "value" {
			t.Fatalf("%q, %v", got, err)
		}
	})
}
