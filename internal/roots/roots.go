// Package roots keeps the root file systems of runtimes as objects in S3, with an
// index in a key-value bucket: a root is built once for the cluster, and every
// node fetches it by digest.
package roots

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"github.com/dayfly-run/dayfly/internal/garbage"
	"github.com/dayfly-run/dayfly/wire"
)

// Build makes a root file system as an uncompressed tar at path.
type Build func(ctx context.Context, path string) error

// Recipe is what a root is made by. Two releases with different recipes have
// different roots side by side.
type Recipe struct {
	Name   string
	Digest wire.Digest
	// Source says what Build makes the root of.
	Source wire.RootSource
	Build  Build
}

// Store keeps roots. It is safe for concurrent use; where two processes build the same
// root at once nevertheless, both succeed, and one of the results is kept.
type Store struct {
	*Index
	store  *blob.Store
	keeper *garbage.Keeper // of what the index is about to name
	claims *bus.Bucket     // on roots that are being made
	dir    string
	log    *slog.Logger
	arch   string

	building sync.Mutex // one build at a time, held for its whole length
}

// Open opens the store. dir is for files on their way and nothing else: what an
// earlier run left there is removed.
func Open(ctx context.Context, conn *bus.Conn, store *blob.Store, dir string, log *slog.Logger) (*Store, error) {
	index, err := OpenIndex(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make folder for roots: %w", err)
	}
	keeper, err := garbage.OpenKeeper(ctx, conn)
	if err != nil {
		return nil, err
	}
	claims, err := openClaims(ctx, conn)
	if err != nil {
		return nil, err
	}
	return &Store{Index: index, store: store, keeper: keeper, claims: claims, dir: dir, log: log, arch: runtime.GOARCH}, nil
}

// Ensure returns the root of a recipe, building and storing it when the cluster has
// none yet, or lost it. While another process builds it, it waits for that.
func (s *Store) Ensure(ctx context.Context, r Recipe) (wire.Root, error) {
	if root, _, err := s.find(ctx, r); !errors.Is(err, bus.ErrNotFound) {
		return root, err
	}
	s.building.Lock()
	defer s.building.Unlock()
	var made wire.Root
	var release func()
	defer func() {
		if release != nil {
			release()
		}
	}()
	for tried := 0; tried < moves; {
		root, lost, err := s.find(ctx, r)
		if !errors.Is(err, bus.ErrNotFound) {
			return root, err // another process was quicker
		}
		if release == nil {
			if release, err = s.claim(ctx, r); errors.Is(err, bus.ErrExists) {
				err = awaitClaim(ctx)
			}
			if err != nil {
				return wire.Root{}, err
			}
			continue // it may have come just before
		}
		tried++
		if made.Digest == "" {
			s.log.Info("preparing a runtime, once for the cluster", "root", r.Name)
			if made, err = s.make(ctx, r); err != nil {
				return wire.Root{}, err
			}
		}
		root, err = s.move(ctx, made, lost)
		if !errors.Is(err, bus.ErrConflict) && !errors.Is(err, bus.ErrExists) {
			return root, err
		}
	}
	return wire.Root{}, tooMany(r)
}

// Current returns the root that the index has for a recipe, or [bus.ErrNotFound].
func (s *Store) Current(ctx context.Context, r Recipe) (wire.Root, error) {
	entry, err := s.bucket.Get(ctx, s.key(r))
	if err != nil {
		return wire.Root{}, err
	}
	return decode(entry)
}

func (s *Store) key(r Recipe) string { return wire.RootKey(r.Name, s.arch, r.Digest) }

// find returns the stored root, or [bus.ErrNotFound]: with its entry when its object
// is gone, with an empty one when there is none.
func (s *Store) find(ctx context.Context, r Recipe) (root wire.Root, entry bus.Entry, err error) {
	if entry, err = s.bucket.Get(ctx, s.key(r)); err != nil {
		return root, bus.Entry{}, err
	}
	if root, err = decode(entry); err != nil {
		return root, entry, err
	}
	exists, err := s.store.Exists(ctx, wire.RuntimeKey(root.Digest))
	if err == nil && !exists {
		s.log.Warn("root is missing in S3; building it anew", "root", r.Name, "digest", string(root.Digest))
		err = bus.ErrNotFound
	}
	return root, entry, err
}

// make makes and stores a root that nothing refers to yet.
func (s *Store) make(ctx context.Context, r Recipe) (wire.Root, error) {
	begun := time.Now()
	work, err := os.MkdirTemp(s.dir, "build-")
	if err != nil {
		return wire.Root{}, fmt.Errorf("build root %s: %w", r.Name, err)
	}
	defer os.RemoveAll(work)
	tar := filepath.Join(work, "root.tar")
	if err := r.Build(ctx, tar); err != nil {
		return wire.Root{}, err
	}
	root := wire.Root{Name: r.Name, Arch: s.arch, Recipe: r.Digest, BuiltAt: time.Now().UTC(), Source: r.Source}
	if root.Digest, root.Bytes, err = s.put(ctx, work, tar, wire.RuntimeKey); err != nil {
		return wire.Root{}, fmt.Errorf("store root %s: %w", r.Name, err)
	}
	s.log.Info("runtime prepared", "root", r.Name, "bytes", root.Bytes, "took", time.Since(begun).Round(time.Millisecond))
	return root, nil
}

// PutImage stores the root of a user's image, an uncompressed tar that build writes at
// a path, and returns its digest and its packed size.
func (s *Store) PutImage(ctx context.Context, build Build) (wire.Digest, int64, error) {
	work, err := os.MkdirTemp(s.dir, "image-")
	if err != nil {
		return "", 0, fmt.Errorf("store image: %w", err)
	}
	defer os.RemoveAll(work)
	tar := filepath.Join(work, "root.tar")
	if err := build(ctx, tar); err != nil {
		return "", 0, err
	}
	return s.put(ctx, work, tar, wire.ImageKey)
}

// put packs a tar in work and stores it under its digest, unless it is there already.
func (s *Store) put(ctx context.Context, work, tar string, key func(wire.Digest) string) (wire.Digest, int64, error) {
	packed := filepath.Join(work, "root.tar.zst")
	digest, size, err := pack(tar, packed)
	if err != nil {
		return "", 0, err
	}
	f, err := os.Open(packed)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if err := s.keeper.Keep(ctx, key(digest)); err != nil {
		return "", 0, err
	}
	exists, err := s.store.Exists(ctx, key(digest))
	if err == nil && !exists {
		err = s.store.Put(ctx, key(digest), f, size, "application/zstd")
	}
	return digest, size, err
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

// Open fetches a root, checks its digest, and returns it as an uncompressed tar.
// Only a whole and right object is ever returned.
func (s *Store) Open(ctx context.Context, root wire.Root) (io.ReadCloser, error) {
	return s.open(ctx, "root "+root.Name, root.Digest, wire.RuntimeKey, "remove the object and it is built anew")
}

// OpenImage is [Store.Open] for the root of a user's image. An image that is missing or
// damaged in S3 is a [*wire.Error] with code internal.
func (s *Store) OpenImage(ctx context.Context, d wire.Digest) (io.ReadCloser, error) {
	r, err := s.open(ctx, "image", d, wire.ImageKey, "deploy the function again")
	if errors.Is(err, blob.ErrNotFound) {
		return nil, wire.Errorf(wire.CodeInternal, "the image %s is missing in S3; deploy the function again", d)
	}
	return r, err
}

func (s *Store) open(ctx context.Context, what string, digest wire.Digest, key func(wire.Digest) string, advice string) (io.ReadCloser, error) {
	object, err := s.store.Get(ctx, key(digest))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", what, err)
	}
	defer object.Close()
	f, err := os.CreateTemp(s.dir, "fetch-")
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", what, err)
	}
	// The open file stays readable, and nothing is left when it is closed.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), object); err != nil {
		return nil, errors.Join(fmt.Errorf("fetch %s: %w", what, err), f.Close())
	}
	if got := wire.Digest(hex.EncodeToString(sum.Sum(nil))); got != digest {
		return nil, errors.Join(wire.Errorf(wire.CodeInternal, "%s is damaged in S3: the digest of %s is %s; %s", what, key(digest), got, advice), f.Close())
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
