// Package roots keeps the root file systems of runtimes as objects in S3, with an
// index in a key-value bucket: a root is built once for the cluster, and every
// node fetches it by digest.
package roots

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// Build makes a root file system as an uncompressed tar at path.
type Build func(ctx context.Context, path string) error

// Recipe is what a root is made by. Two releases with different recipes have
// different roots side by side.
type Recipe struct {
	Name   string
	Digest wire.Digest
	Build  Build
}

// Store keeps roots. It is safe for concurrent use; two processes that build the
// same root at once both succeed, and one of the results is kept.
type Store struct {
	bucket *bus.Bucket
	store  *blob.Store
	dir    string
	log    *slog.Logger
	arch   string

	building sync.Mutex // one build at a time, held for its whole length
}

// Open opens the store. dir is for files on their way and nothing else: what an
// earlier run left there is removed.
func Open(ctx context.Context, conn *bus.Conn, store *blob.Store, dir string, log *slog.Logger) (*Store, error) {
	bucket, err := conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketRoots, MaxValueBytes: 4 << 10})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make folder for roots: %w", err)
	}
	return &Store{bucket: bucket, store: store, dir: dir, log: log, arch: runtime.GOARCH}, nil
}

// Ensure returns the root of a recipe, building and storing it when the cluster has
// none yet.
func (s *Store) Ensure(ctx context.Context, r Recipe) (wire.Root, error) {
	if root, err := s.find(ctx, r); !errors.Is(err, bus.ErrNotFound) {
		return root, err
	}
	s.building.Lock()
	defer s.building.Unlock()
	if root, err := s.find(ctx, r); !errors.Is(err, bus.ErrNotFound) {
		return root, err
	}
	return s.build(ctx, r)
}

func (s *Store) key(r Recipe) string { return wire.RootKey(r.Name, s.arch, r.Digest) }

// find returns the stored root, or [bus.ErrNotFound] when there is none or its
// object is gone.
func (s *Store) find(ctx context.Context, r Recipe) (root wire.Root, err error) {
	entry, err := s.bucket.Get(ctx, s.key(r))
	if err != nil {
		return root, err
	}
	if err := json.Unmarshal(entry.Value, &root); err != nil {
		return root, fmt.Errorf("index of root %s is damaged: %w", r.Name, err)
	}
	exists, err := s.store.Exists(ctx, wire.RuntimeKey(root.Digest))
	if err == nil && !exists {
		s.log.Warn("root is missing in S3; building it anew", "root", r.Name, "digest", string(root.Digest))
		if err = s.bucket.Delete(ctx, s.key(r), entry.Revision); err == nil || errors.Is(err, bus.ErrConflict) {
			err = bus.ErrNotFound
		}
	}
	return root, err
}

// build makes, stores and indexes a root.
func (s *Store) build(ctx context.Context, r Recipe) (wire.Root, error) {
	begun := time.Now()
	s.log.Info("preparing a runtime, once for the cluster", "root", r.Name)
	work, err := os.MkdirTemp(s.dir, "build-")
	if err != nil {
		return wire.Root{}, fmt.Errorf("build root %s: %w", r.Name, err)
	}
	defer os.RemoveAll(work)
	tar := filepath.Join(work, "root.tar")
	if err := r.Build(ctx, tar); err != nil {
		return wire.Root{}, err
	}
	packed := filepath.Join(work, "root.tar.zst")
	root := wire.Root{Name: r.Name, Arch: s.arch, Recipe: r.Digest, BuiltAt: time.Now().UTC()}
	if root.Digest, root.Bytes, err = pack(tar, packed); err != nil {
		return wire.Root{}, fmt.Errorf("pack root %s: %w", r.Name, err)
	}
	if err := s.upload(ctx, packed, root); err != nil {
		return wire.Root{}, err
	}
	data, err := json.Marshal(root)
	if err != nil {
		return wire.Root{}, err
	}
	_, err = s.bucket.Create(ctx, s.key(r), data)
	if errors.Is(err, bus.ErrExists) {
		return s.find(ctx, r) // another process was quicker
	}
	s.log.Info("runtime prepared", "root", r.Name, "bytes", root.Bytes, "took", time.Since(begun).Round(time.Millisecond))
	return root, err
}

// pack compresses a tar and returns the digest and size of the result.
func pack(from, to string) (wire.Digest, int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return "", 0, err
	}
	defer out.Close()
	sum := sha256.New()
	packer, err := zstd.NewWriter(io.MultiWriter(out, sum), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return "", 0, err
	}
	if _, err := io.Copy(packer, in); err != nil {
		return "", 0, err
	}
	if err := packer.Close(); err != nil {
		return "", 0, err
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return "", 0, err
	}
	return wire.Digest(hex.EncodeToString(sum.Sum(nil))), size, out.Close()
}

func (s *Store) upload(ctx context.Context, path string, root wire.Root) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.store.Put(ctx, wire.RuntimeKey(root.Digest), f, root.Bytes, "application/zstd")
}

// Open fetches a root, checks its digest, and returns it as an uncompressed tar.
// Only a whole and right object is ever returned.
func (s *Store) Open(ctx context.Context, root wire.Root) (io.ReadCloser, error) {
	object, err := s.store.Get(ctx, wire.RuntimeKey(root.Digest))
	if err != nil {
		return nil, fmt.Errorf("fetch root %s: %w", root.Name, err)
	}
	defer object.Close()
	f, err := os.CreateTemp(s.dir, "fetch-")
	if err != nil {
		return nil, fmt.Errorf("fetch root %s: %w", root.Name, err)
	}
	// The open file stays readable, and nothing is left when it is closed.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), object); err != nil {
		return nil, errors.Join(fmt.Errorf("fetch root %s: %w", root.Name, err), f.Close())
	}
	if got := wire.Digest(hex.EncodeToString(sum.Sum(nil))); got != root.Digest {
		return nil, errors.Join(fmt.Errorf("root %s is damaged in S3: its digest is %s; remove the object %s, and it is built anew",
			root.Name, got, wire.RuntimeKey(root.Digest)), f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	unpacker, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &unpacking{unpacker.IOReadCloser(), f}, nil
}

// unpacking closes the file beneath the unpacker too.
type unpacking struct {
	io.ReadCloser
	file *os.File
}

func (u *unpacking) Close() error {
	return errors.Join(u.ReadCloser.Close(), u.file.Close())
}
