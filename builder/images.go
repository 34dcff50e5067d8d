package builder

import (
	"bytes"
	"cmp"
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
// use and ends with its context. Both methods write at most most bytes to archive, and to
// out what the engine prints while it works; they return [ErrJob] when the engine says no,
// and [ErrNoEngine] without one.
type Images interface {
	// Build builds a Dockerfile.
	Build(ctx context.Context, job ImageJob, archive io.Writer, most int64, out io.Writer) error
	// Pull fetches an image by reference.
	Pull(ctx context.Context, reference string, archive io.Writer, most int64, out io.Writer) error
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

// image makes the root file system of a function that has an image of its own. One that
// is made of the bundle's files is made once; a reference may mean another image each time.
func (b *Builder) image(ctx context.Context, t task) (made, error) {
	file, err := imageFile(t)
	if err != nil {
		return made{}, err
	}
	if file == "" {
		return b.imageNow(ctx, t, "")
	}
	in := input{Kind: "image"}
	if in.Files, err = digestFiles(t.dir, "."); err != nil {
		return made{}, err
	}
	m, err := b.once(ctx, in, func() (made, error) { return b.imageNow(ctx, t, file) })
	if m.cached {
		t.say("nothing changed: the image is that of an earlier build")
	}
	return m, err
}

// imageNow makes it of a file of the bundle, or without one of what the manifest refers to.
func (b *Builder) imageNow(ctx context.Context, t task, file string) (made, error) {
	archive, err := b.imageArchive(ctx, t, file)
	if err != nil {
		return made{}, err
	}
	defer archive.Close()
	var config image.Config
	from := cmp.Or(file, t.spec.Image)
	root := &wire.Image{Arch: runtime.GOARCH, Source: from}
	root.Digest, root.Bytes, err = b.deps.Roots.PutImage(ctx, func(ctx context.Context, path string) (err error) {
		config, err = flatten(ctx, archive, t.work, path)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return made{}, b.jobFailed(ctx, "the image could not be unpacked", "", err)
		}
		return made{}, err
	}
	root.RootBytes, root.Env, root.WorkDir = config.Bytes, config.Env, config.WorkDir
	arguments := config.Cmd
	if t.spec.Handler != "" {
		arguments = []string{t.spec.Handler}
	}
	root.Command = slices.Concat(config.Entrypoint, arguments)
	if len(root.Command) == 0 {
		return made{}, wire.Errorf(wire.CodeInvalid, "the image of %s says no program; give it an ENTRYPOINT or a CMD", from)
	}
	return made{Code: root.Digest, CodeBytes: root.Bytes, Image: root}, nil
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

// imageFile is the file of the bundle that the manifest means: an archive or a
// Dockerfile. It is empty when the manifest refers to an image elsewhere.
func imageFile(t task) (string, error) {
	name := path.Clean(t.spec.Image)
	if t.spec.Image == "" {
		name = dockerfile
	}
	f, err := openFile(t.dir, name)
	switch {
	case err == nil:
		return name, f.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	case t.spec.Image == "":
		return "", wire.Errorf(wire.CodeInvalid,
			"runtime image: the bundle has no %s; add one, or name an image archive or a reference with image: in %s", dockerfile, functions.ManifestName)
	case isFileName(name):
		return "", wire.Errorf(wire.CodeInvalid, "image: the bundle has no file %q; add it, or name another image in %s", name, functions.ManifestName)
	}
	return "", nil
}

// imageArchive opens the archive of the image, making it where it must be.
func (b *Builder) imageArchive(ctx context.Context, t task, file string) (*os.File, error) {
	if file == "" {
		return b.fromEngine(ctx, t, "the image "+t.spec.Image+" could not be pulled", func(archive io.Writer, most int64, out io.Writer) error {
			return b.deps.Images.Pull(ctx, t.spec.Image, archive, most, out)
		})
	}
	f, err := openFile(t.dir, file)
	if err != nil {
		return nil, err
	}
	isArchive, err := looksLikeArchive(f)
	if err != nil || isArchive {
		return f, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return b.fromEngine(ctx, t, "the Dockerfile could not be built", func(archive io.Writer, most int64, out io.Writer) error {
		return b.buildDockerfile(ctx, t, file, archive, most, out)
	})
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
func (b *Builder) buildDockerfile(ctx context.Context, t task, name string, archive io.Writer, most int64, out io.Writer) error {
	packed, err := os.Create(filepath.Join(t.work, "context"))
	if err != nil {
		return err
	}
	defer packed.Close()
	if _, err := bundle.Pack(t.dir, packed); err != nil {
		return err
	}
	if _, err := packed.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return b.deps.Images.Build(ctx, ImageJob{ID: t.id, Context: packed, Dockerfile: name, Network: t.spec.Network}, archive, most, out)
}

// fromEngine has the engine write an archive into a file, which stands at its start.
func (b *Builder) fromEngine(ctx context.Context, t task, what string, write func(archive io.Writer, most int64, out io.Writer) error) (*os.File, error) {
	f, err := os.Create(filepath.Join(t.work, "image.tar"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var said clip
	err = write(f, image.DefaultLimits().Bytes, io.MultiWriter(&said, t.out))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, ErrNoEngine):
		err = wire.Errorf(wire.CodeInvalid, "%s: %s; put an image archive (docker save, or an OCI layout) into the bundle and name it with image: in %s",
			what, err, functions.ManifestName)
	case errors.Is(err, ErrJob):
		err = b.jobFailed(ctx, what, said.String()+err.Error(), ErrJob)
	default:
		err = b.jobFailed(ctx, what, said.String(), err)
	}
	return nil, errors.Join(err, f.Close())
}
