package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/go-units"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// ErrImage: the engine said no to a Dockerfile or a reference; it is theirs to mend.
var ErrImage = errors.New("the engine could not make the image")

const (
	// imageLogBytes bounds what is kept of a build's output.
	imageLogBytes = 64 << 10
	// buildTag names images that are on their way.
	buildTag = "dayfly-build"
	// imageCleanup bounds removing what a build left.
	imageCleanup = time.Minute
)

// ImageBuild is a Dockerfile to be built.
type ImageBuild struct {
	// ID names the build; no two at once may have the same.
	ID string
	// Context is a tar, compressed or not, with the Dockerfile in it.
	Context    io.Reader
	Dockerfile string
	// Network is what its RUN steps may reach.
	Network sandbox.Network
	Limits  sandbox.Limits
}

// BuildImage builds a Dockerfile and writes the image's archive, at most most bytes of
// it, to out, and to log what the build prints while it runs. It fails with [ErrImage] when the build failed. The
// engine keeps nothing of it but the images that it was FROM.
func (s *Sandbox) BuildImage(ctx context.Context, b ImageBuild, out io.Writer, most int64, log io.Writer) (err error) {
	network, err := s.networkMode(ctx, b.Network)
	if err != nil {
		return err
	}
	tag := buildTag + ":" + b.ID
	defer func() { err = errors.Join(err, s.removeImage(ctx, tag, true)) }()
	// The engine's own builder: BuildKit would need a session beside the request.
	answer, err := s.client.ImageBuild(ctx, b.Context, build.ImageBuildOptions{
		Tags: []string{tag}, Dockerfile: b.Dockerfile, Labels: map[string]string{labelOwner: s.owner},
		// What is reused from another build could be removed with that one meanwhile.
		NoCache: true, Remove: true, ForceRemove: true, PullParent: false,
		NetworkMode: string(network), Version: build.BuilderV1, Platform: "linux/" + runtime.GOARCH,
		Memory: b.Limits.MemoryBytes, MemorySwap: b.Limits.MemoryBytes,
		CPUPeriod: 100_000, CPUQuota: b.Limits.CPUMillis * 100, CPUShares: max(2, b.Limits.CPUShareMillis*1024/1000),
		Ulimits: []*container.Ulimit{
			{Name: "nofile", Soft: b.Limits.OpenFiles, Hard: b.Limits.OpenFiles},
			{Name: "fsize", Soft: b.Limits.FileBytes, Hard: b.Limits.FileBytes},
		},
	})
	if err != nil {
		return s.wrapImage("build the Dockerfile", err)
	}
	defer answer.Body.Close()
	if err := follow(ctx, answer.Body, log); err != nil {
		return s.wrap("build the Dockerfile", err)
	}
	return s.save(ctx, tag, out, most)
}

// PullImage fetches an image by reference, unless no registry has it and the engine
// does, and writes its archive, at most most bytes of it, to out. [ErrImage] says that
// there is none. What was not there before is removed again.
func (s *Sandbox) PullImage(ctx context.Context, reference string, out io.Writer, most int64, log io.Writer) (err error) {
	_, before := s.client.ImageInspect(ctx, reference)
	body, err := s.client.ImagePull(ctx, reference, image.PullOptions{Platform: "linux/" + runtime.GOARCH})
	if err == nil {
		err = follow(ctx, body, io.Discard)
		err = errors.Join(err, body.Close())
	}
	switch {
	case err == nil && before != nil:
		defer func() { err = errors.Join(err, s.removeImage(ctx, reference, false)) }()
	case err != nil && before != nil:
		return s.wrapImage("pull "+reference, err)
	case err != nil:
		_, _ = fmt.Fprintf(log, "%s could not be pulled (%s); the engine's own copy is used\n", reference, err)
	}
	return s.save(ctx, reference, out, most)
}

// wrapImage tells a failure of what was asked for from one of the engine.
func (s *Sandbox) wrapImage(what string, err error) error {
	if errors.Is(err, ErrImage) || unanswered(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return s.wrap(what, err)
	}
	return s.wrap(what, fmt.Errorf("%w: %w", ErrImage, err))
}

// follow reads the engine's messages to their end, and writes their text to log. An error
// among them is [ErrImage].
func follow(ctx context.Context, body io.Reader, log io.Writer) error {
	written := 0
	messages := json.NewDecoder(body)
	for {
		var m struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
		}
		switch err := messages.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case m.Error != "":
			return fmt.Errorf("%w: %s", ErrImage, m.Error)
		}
		if written += len(m.Stream); written <= imageLogBytes {
			if _, err := io.WriteString(log, m.Stream); err != nil {
				return err
			}
		}
	}
}

// save writes the archive of an image.
func (s *Sandbox) save(ctx context.Context, reference string, out io.Writer, most int64) error {
	archive, err := s.client.ImageSave(ctx, []string{reference})
	if err != nil {
		return s.wrap("save "+reference, err)
	}
	defer archive.Close()
	n, err := io.Copy(out, io.LimitReader(archive, most+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return s.wrap("save "+reference, err)
	case n > most:
		return fmt.Errorf("%w: it is over %s", ErrImage, units.BytesSize(float64(most)))
	}
	return nil
}

// removeImage removes an image and what it alone stands on; one that is not there is
// no error, nor one that somebody else uses by now.
func (s *Sandbox) removeImage(ctx context.Context, reference string, force bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), imageCleanup)
	defer cancel()
	_, err := s.client.ImageRemove(ctx, reference, image.RemoveOptions{Force: force, PruneChildren: true})
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil
	}
	return s.wrap("remove image "+reference, err)
}

// sweepImages removes what builds of an earlier run left.
func (s *Sandbox) sweepImages(ctx context.Context) error {
	list, err := s.client.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelOwner+"="+s.owner))})
	if err != nil {
		return s.wrap("list images", err)
	}
	var errs []error
	for _, left := range list {
		errs = append(errs, s.removeImage(ctx, left.ID, true))
	}
	return errors.Join(errs...)
}
