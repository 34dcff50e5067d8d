// Package keyring seals secrets with keys that are kept in a file, outside of
// whatever the sealed secrets are stored in.
//
// A value is sealed with a key of its own, and that key with the first one of the
// file: AES-256-GCM both times. What is sealed names the file's key, so that the file
// may hold several while one takes the place of another.
package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// keyBytes is the size of every key.
	keyBytes = 32
	// MaxKeys bounds the keys of a file.
	MaxKeys = 16
	// maxFileBytes bounds the file, its comments included.
	maxFileBytes = 64 << 10
)

// Errors of [Ring.Open], for errors.Is.
var (
	// ErrUnknownKey: the file has not the key that it was sealed with.
	ErrUnknownKey = errors.New("sealed with a key that is not in the file")
	// ErrDamaged: it is not what was sealed, or was sealed for something else.
	ErrDamaged = errors.New("damaged, or sealed for something else")
)

// Ring holds the keys of a file. The first one seals, all of them open. It is safe for
// concurrent use and shows its keys to nobody.
type Ring struct {
	keys []key
}

// key is one of the file; it must not be printed.
type key struct {
	id   string
	aead cipher.AEAD
}

// Sealed is a value that nobody reads without the file.
type Sealed struct {
	// Key names the file's key, as [Ring.Current] does.
	Key string `json:"key"`
	// Wrapped is the value's own key, sealed with the file's.
	Wrapped []byte `json:"wrapped"`
	// Text is the value, sealed with its own key.
	Text []byte `json:"text"`
}

// Load reads a file: a key on each line, 32 random bytes in base64, the one that seals
// first. Lines that begin with # are comments. A file that others on the machine may
// read is refused.
func Load(path string) (*Ring, error) {
	file, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: everybody on this machine may read or write it; run `chmod 600 %s`", path, path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	ring, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

// parse reads the text of a key file. Its errors show nothing of a line: it may be a
// key with a slip in it.
func parse(data []byte) (*Ring, error) {
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("more than %d bytes are no key file", maxFileBytes)
	}
	ring := &Ring{}
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(ring.keys) == MaxKeys {
			return nil, fmt.Errorf("more than %d keys", MaxKeys)
		}
		raw := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
		n, err := base64.StdEncoding.Decode(raw, line)
		if err != nil || n != keyBytes {
			return nil, fmt.Errorf("line %d is no key: write %d random bytes in base64, as `openssl rand -base64 %d` makes them", i+1, keyBytes, keyBytes)
		}
		k, err := newKey(raw[:n])
		if err != nil {
			return nil, err
		}
		if ring.find(k.id) != nil {
			return nil, fmt.Errorf("line %d has the same key as another one; keep one", i+1)
		}
		ring.keys = append(ring.keys, k)
	}
	if len(ring.keys) == 0 {
		return nil, fmt.Errorf("no key; write one with `openssl rand -base64 %d`", keyBytes)
	}
	return ring, nil
}

// LoadOrCreate is [Load], and makes the file with one key when there is none.
func LoadOrCreate(path string) (*Ring, error) {
	ring, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return ring, err
	}
	if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make a key for secrets: %w", err)
	}
	return Load(path)
}

// create writes a file with one key. It is there whole or not at all, and on disk: what
// is sealed with a key that was lost is lost.
func create(path string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".secrets-key-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	raw := make([]byte, keyBytes)
	_, _ = rand.Read(raw) // it never fails
	_, err = fmt.Fprintf(file, "# Seals the secrets of functions. Keep a copy: without it they are lost.\n%s\n", base64.StdEncoding.EncodeToString(raw))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil { // fails when another was quicker
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// newKey makes a key of its bytes. Its name is a digest's beginning, which tells nothing
// of the key.
func newKey(raw []byte) (key, error) {
	aead, err := newAEAD(raw)
	sum := sha256.Sum256(append([]byte("dayfly key "), raw...))
	return key{id: hex.EncodeToString(sum[:8]), aead: aead}, err
}

// newAEAD is AES-256-GCM that draws its nonces itself and puts them before the text.
func newAEAD(raw []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (r *Ring) find(id string) *key {
	for i := range r.keys {
		if r.keys[i].id == id {
			return &r.keys[i]
		}
	}
	return nil
}

// Current names the key that seals.
func (r *Ring) Current() string { return r.keys[0].id }

// Has reports whether the file has a key of that name.
func (r *Ring) Has(id string) bool { return r.find(id) != nil }

// Seal seals a value with a new key of its own. It opens for the same purpose only.
func (r *Ring) Seal(value []byte, purpose string) (Sealed, error) {
	own := make([]byte, keyBytes)
	_, _ = rand.Read(own) // it never fails
	aead, err := newAEAD(own)
	if err != nil {
		return Sealed{}, err
	}
	first := r.keys[0]
	return Sealed{
		Key:     first.id,
		Wrapped: first.aead.Seal(nil, nil, own, wrapped(purpose)), //nolint:gosec // it draws its nonce itself
		Text:    aead.Seal(nil, nil, value, []byte(purpose)),      //nolint:gosec // as above
	}, nil
}

// Open returns the value, or an error that is [ErrUnknownKey] or [ErrDamaged].
func (r *Ring) Open(s Sealed, purpose string) ([]byte, error) {
	k := r.find(s.Key)
	if k == nil {
		return nil, fmt.Errorf("%w: %.32q", ErrUnknownKey, s.Key)
	}
	own, err := k.aead.Open(nil, nil, s.Wrapped, wrapped(purpose))
	if err != nil {
		return nil, ErrDamaged
	}
	aead, err := newAEAD(own)
	if err != nil {
		return nil, ErrDamaged
	}
	value, err := aead.Open(nil, nil, s.Text, []byte(purpose))
	if err != nil {
		return nil, ErrDamaged
	}
	return value, nil
}

// wrapped is the purpose of a value's own key: it opens for nothing else.
func wrapped(purpose string) []byte { return []byte("key of " + purpose) }

// String shows which keys there are, and nothing of them.
func (r *Ring) String() string {
	return fmt.Sprintf("key ring of %d, sealing with %s", len(r.keys), r.Current())
}
