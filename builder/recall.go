package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// recipe is counted up when this builder makes something else of the same input.
const recipe = 1

// made is what a build, or a part of one, made: an artifact, or a layer of packages.
type made struct {
	Code      wire.Digest `json:"code"`
	CodeBytes int64       `json:"codeBytes"`
	Image     *wire.Image `json:"image,omitempty"`

	cached bool
	arch   string // see [wire.BuildReply]
}

// input is what decides what is made; the same one is not built again.
type input struct {
	Recipe int      `json:"recipe"`
	Arch   string   `json:"arch"`
	Kind   string   `json:"kind"`
	Tools  []string `json:"tools"`
	Vendor bool     `json:"vendor"`
	// Files is the digest of the files that matter.
	Files wire.Digest `json:"files"`
}

// maxRecord bounds the record of a build, in bytes.
const maxRecord = 64 << 10

// once returns what an input was made into before, by whatever builder, or makes it. The
// records of it are in S3; one whose object was removed since does not count.
func (b *Builder) once(ctx context.Context, in input, build func() (made, error)) (made, error) {
	in.Recipe, in.Arch = recipe, runtime.GOARCH
	text, err := json.Marshal(in)
	if err != nil {
		return made{}, err
	}
	sum := sha256.Sum256(text)
	key := wire.BuildKey(wire.Digest(hex.EncodeToString(sum[:])))
	m, err := b.recall(ctx, key)
	if err == nil {
		m.cached = true
		return m, nil
	}
	if !errors.Is(err, blob.ErrNotFound) {
		return made{}, s3Failed(err)
	}
	if m, err = build(); err != nil {
		return made{}, err
	}
	data, err := json.Marshal(m)
	if err == nil && len(data) <= maxRecord {
		err = b.deps.Store.PutBytes(ctx, key, data, "application/json")
	}
	if err != nil { // it is made all the same
		b.log.Warn("build not remembered", "key", key, telemetry.KeyError, err)
	}
	return m, nil
}

// recall reads a record, or fails with [blob.ErrNotFound].
func (b *Builder) recall(ctx context.Context, key string) (m made, err error) {
	data, err := b.deps.Store.GetBytes(ctx, key, maxRecord)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		b.log.Warn("record of a build is damaged; building again", "key", key, telemetry.KeyError, err)
		return m, blob.ErrNotFound
	}
	object := m.object()
	// The record as well: what is used often is not made again and again.
	if err := errors.Join(b.keeper.Keep(ctx, object), b.keeper.Keep(ctx, key)); err != nil {
		return m, err
	}
	exists, err := b.deps.Store.Exists(ctx, object)
	if err == nil && !exists {
		err = blob.ErrNotFound
	}
	return m, err
}

// rootID names the root file system of a runtime that jobs run in now.
func (b *Builder) rootID(ctx context.Context, name string) (string, error) {
	rt, ok := runtimes.Lookup(name)
	if !ok {
		return "", fmt.Errorf("no runtime %s", name)
	}
	r := PackagesRecipe(rt)
	root, err := b.deps.Roots.Current(ctx, r)
	switch {
	case err == nil:
		return string(root.ID()), nil
	case errors.Is(err, bus.ErrNotFound):
		return string(r.Digest), nil
	}
	return "", wire.Errorf(wire.CodeUnavailable, "the builder could not read the index of roots: %s", err)
}

// digestFiles is the digest of files and folders of dir: their names, whether they are
// executable, and what they hold. A name that is not there counts as such.
func digestFiles(dir string, names ...string) (wire.Digest, error) {
	sum := sha256.New()
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return digestFile(sum, dir, path, e)
		})
		if errors.Is(err, fs.ErrNotExist) {
			_, err = fmt.Fprintf(sum, "none %q\n", name)
		}
		if err != nil {
			return "", fmt.Errorf("read bundle: %w", err)
		}
	}
	return wire.Digest(hex.EncodeToString(sum.Sum(nil))), nil
}

func digestFile(sum io.Writer, dir, path string, e fs.DirEntry) error {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	info, err := e.Info()
	if err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := os.Readlink(path)
		if err == nil {
			_, err = fmt.Fprintf(sum, "link %q %q\n", name, target)
		}
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(sum, "file %q %t %d\n", name, info.Mode().Perm()&0o111 != 0, info.Size()); err != nil {
		return err
	}
	_, err = io.Copy(sum, f)
	return err
}

// layer makes a folder of packages, or fetches what an earlier build made of the same
// input, and says which. make fills the folder, which the build user owns.
func (b *Builder) layer(ctx context.Context, t task, in input, build func(dir string) error) (dir string, cached bool, err error) {
	dir = filepath.Join(t.work, "layer")
	if err := makeFolder(dir); err != nil {
		return "", false, err
	}
	m, err := b.once(ctx, in, func() (made, error) {
		if err := build(dir); err != nil {
			return made{}, err
		}
		digest, size, err := b.store(ctx, dir, filepath.Join(t.work, "layer.tar.gz"))
		return made{Code: digest, CodeBytes: size}, err
	})
	if err != nil || !m.cached {
		return dir, false, err
	}
	object, err := b.deps.Store.Get(ctx, wire.CodeKey(m.Code))
	if err != nil {
		return "", false, s3Failed(err)
	}
	defer object.Close()
	_, err = bundle.Unpack(object, dir, bundle.DefaultLimits())
	return dir, true, err
}
