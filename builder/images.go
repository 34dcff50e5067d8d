package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/builder/image"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/wire"
)

// Images makes image archives, as a container engine can. It is safe for concurrent
// use and ends with its context. Both methods write at most most bytes, and return
// what was printed; [ErrJob] when the engine says no, and [ErrNoEngine] without one.
type Images interface {
	// Build builds a Dockerfile.
	Build(ctx context.Context, job ImageJob, archive io.Writer, most int64) (output string, err error)
	// Pull fetches an image by reference.
	Pull(ctx context.Context, reference string, archive io.Writer, most int64) (output string, err error)
}

// ImageJob is a Dockerfile to be built.
type ImageJob struct {
	ID string
	// Context is a compressed tar of the bundle, and Dockerfile a path in it.
	Context    io.Reader
	Dockerfile string
	// Network is what RUN steps may reach: what the function may, in functions' words.
	Network string
}

// ErrNoEngine: there is nothing on this machine that makes images.
var ErrNoEngine = errors.New("no container engine answers")

const dockerfile = "Dockerfile"

// image makes the root file system of a function that has an image of its own.
func (b *Builder) image(ctx context.Context, id, work, source string, spec functions.Spec) (*wire.Image, string, error) {
	archive, from, log, err := b.imageArchive(ctx, id, work, source, spec)
	if err != nil {
		return nil, "", err
	}
	defer archive.Close()
	var config image.Config
	made := &wire.Image{Arch: runtime.GOARCH, Source: from}
	made.Digest, made.Bytes, err = b.deps.Roots.PutImage(ctx, func(ctx context.Context, path string) (err error) {
		config, err = flatten(ctx, archive, work, path)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, "", b.jobFailed(ctx, "the image could not be unpacked", "", err)
		}
		return nil, "", err
	}
	made.RootBytes, made.Env, made.WorkDir = config.Bytes, config.Env, config.WorkDir
	arguments := config.Cmd
	if spec.Handler != "" {
		arguments = []string{spec.Handler}
	}
	made.Command = slices.Concat(config.Entrypoint, arguments)
	if len(made.Command) == 0 {
		return nil, "", wire.Errorf(wire.CodeInvalid, "the image of %s says no program; give it an ENTRYPOINT or a CMD", from)
	}
	return made, log, nil
}

// flatten writes the root file system of an image archive into a file.
func flatten(ctx context.Context, archive *os.File, work, path string) (image.Config, error) {
	out, err := os.Create(path)
	if err != nil {
		return image.Config{}, fmt.Errorf("unpack image: %w", err)
	}
	defer out.Close()
	config, err := image.Flatten(ctx, archive, work, runtime.GOARCH, image.DefaultLimits(), out)
	return config, errors.Join(err, out.Close())
}

// imageArchive opens the archive of the image that a manifest means, making it where
// it must be, and says where it came from.
func (b *Builder) imageArchive(ctx context.Context, id, work, source string, spec functions.Spec) (f *os.File, from, log string, err error) {
	name := path.Clean(spec.Image)
	if spec.Image == "" {
		name = dockerfile
	}
	f, err = openFile(source, name)
	switch {
	case err == nil:
		isArchive, err := looksLikeArchive(f)
		if err != nil || isArchive {
			return f, name, "", err
		}
		if err := f.Close(); err != nil {
			return nil, "", "", err
		}
		f, log, err = b.fromEngine(ctx, work, "the Dockerfile could not be built", func(out io.Writer, most int64) (string, error) {
			return b.buildDockerfile(ctx, id, work, source, name, spec.Network, out, most)
		})
		return f, name, log, err
	case !errors.Is(err, fs.ErrNotExist):
		return nil, "", "", err
	case spec.Image == "":
		return nil, "", "", wire.Errorf(wire.CodeInvalid,
			"runtime image: the bundle has no %s; add one, or name an image archive or a reference with image: in %s", dockerfile, functions.ManifestName)
	case isFileName(name):
		return nil, "", "", wire.Errorf(wire.CodeInvalid, "image: the bundle has no file %q; add it, or name another image in %s", name, functions.ManifestName)
	}
	f, log, err = b.fromEngine(ctx, work, "the image "+spec.Image+" could not be pulled", func(out io.Writer, most int64) (string, error) {
		return b.deps.Images.Pull(ctx, spec.Image, out, most)
	})
	return f, spec.Image, log, err
}

// openFile opens a file of the bundle; what is no name of one does not exist.
func openFile(source, name string) (*os.File, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrNotExist
	}
	root, err := os.OpenRoot(source)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return f, nil
}

// isFileName says whether a text is meant as a file of the bundle, and no reference.
func isFileName(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, dockerfile) || slices.ContainsFunc([]string{".tar", ".tgz", ".tar.gz", ".tar.zst"}, func(ending string) bool {
		return strings.HasSuffix(base, ending)
	})
}

// looksLikeArchive tells an image archive from a Dockerfile, by how it begins.
func looksLikeArchive(f *os.File) (bool, error) {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.ContainsRune(head[:n], 0) || bytes.HasPrefix(head[:n], []byte("\x1f\x8b")), nil
}

// buildDockerfile has the engine build a Dockerfile with the bundle as its context.
func (b *Builder) buildDockerfile(ctx context.Context, id, work, source, name, network string, out io.Writer, most int64) (string, error) {
	packed, err := os.Create(filepath.Join(work, "context"))
	if err != nil {
		return "", err
	}
	defer packed.Close()
	if _, err := bundle.Pack(source, packed); err != nil {
		return "", err
	}
	if _, err := packed.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return b.deps.Images.Build(ctx, ImageJob{ID: id, Context: packed, Dockerfile: name, Network: network}, out, most)
}

// fromEngine has the engine write an archive into a file, which stands at its start.
func (b *Builder) fromEngine(ctx context.Context, work, what string, write func(out io.Writer, most int64) (string, error)) (*os.File, string, error) {
	f, err := os.Create(filepath.Join(work, "image.tar"))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", what, err)
	}
	log, err := write(f, image.DefaultLimits().Bytes)
	log = tidy(log)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	switch {
	case err == nil:
		return f, log, nil
	case errors.Is(err, ErrNoEngine):
		err = wire.Errorf(wire.CodeInvalid, "%s: %s; put an image archive (docker save, or an OCI layout) into the bundle and name it with image: in %s",
			what, err, functions.ManifestName)
	case errors.Is(err, ErrJob):
		err = b.jobFailed(ctx, what, log+err.Error(), ErrJob)
	default:
		err = b.jobFailed(ctx, what, log, err)
	}
	return nil, "", errors.Join(err, f.Close())
}
