package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// collectEvery is how often old roots are looked for.
const collectEvery = 10 * time.Minute

// PackagesRecipe makes the root file system of a runtime out of Debian packages.
func PackagesRecipe(rt runtimes.Runtime) roots.Recipe {
	return packagesRecipe(rt, io.Discard)
}

func packagesRecipe(rt runtimes.Runtime, log io.Writer) roots.Recipe {
	return roots.Recipe{
		Name: rt.Root(), Digest: rt.RootDigest(), Source: wire.SourcePackages,
		Build: func(ctx context.Context, path string) error {
			var output strings.Builder
			if err := runtimes.BuildRoot(ctx, rt, path, io.MultiWriter(&output, log)); err != nil {
				return fmt.Errorf("%w\n%s", err, output.String())
			}
			return nil
		},
	}
}

// serveRebuild makes a root anew.
func (b *Builder) serveRebuild(m bus.Msg) {
	begun := time.Now()
	var req wire.RebuildRequest
	var reply wire.RebuildReply
	err := json.Unmarshal(m.Data, &req)
	if err != nil {
		err = wire.Errorf(wire.CodeInvalid, "malformed rebuild request: %s", err)
	} else if req == (wire.RebuildRequest{}) { // somebody asks whether a builder is there
		b.answer(m, reply)
		return
	} else {
		reply, err = b.rebuild(b.ctx, req)
	}
	result := "ok"
	log := b.log.With("build", req.ID, "root", req.Root)
	if err != nil {
		reply.Error = wire.AsError(err)
		result = string(reply.Error.Code)
		log.Warn("rebuild failed", telemetry.KeyCode, result, telemetry.KeyError, reply.Error.Message)
	} else {
		log.Info("root rebuilt", "digest", string(reply.Root.Digest), "bytes", reply.Root.Bytes, "took", time.Since(begun))
	}
	b.builds.WithLabelValues(result).Observe(time.Since(begun).Seconds())
	b.answer(m, reply)
}

func (b *Builder) rebuild(ctx context.Context, req wire.RebuildRequest) (reply wire.RebuildReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	rt, ok := runtimeOf(req.Root)
	if !ok {
		return reply, wire.Errorf(wire.CodeNotFound, "this builder makes no root %q; upgrade it", req.Root)
	}
	var log strings.Builder
	recipe := packagesRecipe(rt, &log)
	if req.Archive != "" {
		recipe.Source = wire.SourceImage
		recipe.Build = func(ctx context.Context, path string) error { return b.fromArchive(ctx, req.Archive, path) }
	}
	root, err := b.deps.Roots.Rebuild(ctx, recipe)
	if err != nil {
		return reply, b.jobFailed(ctx, "the root "+req.Root+" could not be made", log.String(), err)
	}
	return wire.RebuildReply{Root: &root, Log: tidy(log.String())}, nil
}

// runtimeOf returns a runtime that uses a root; all that do need the same of it.
func runtimeOf(root string) (runtimes.Runtime, bool) {
	for _, rt := range runtimes.All() {
		if rt.Root() == root {
			return rt, true
		}
	}
	return runtimes.Runtime{}, false
}

// fromArchive writes the root file system of an uploaded image archive to path.
func (b *Builder) fromArchive(ctx context.Context, key, path string) error {
	object, err := b.deps.Store.Get(ctx, key)
	if err != nil {
		return s3Failed(err)
	}
	defer object.Close()
	work := filepath.Dir(path)
	f, err := os.Create(filepath.Join(work, "archive"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, object); err != nil {
		return s3Failed(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = flatten(ctx, f, work, path)
	return err
}

// collectLoop removes old roots from S3, now and then.
func (b *Builder) collectLoop() {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		removed, err := b.deps.Roots.Collect(b.ctx, time.Now())
		switch {
		case err != nil && b.ctx.Err() == nil:
			b.log.Warn("old roots are not removed; the next time", telemetry.KeyError, err)
		case removed > 0:
			b.log.Info("old roots removed", "count", removed)
		}
		select {
		case <-tick.C:
		case <-b.idle:
			return
		case <-b.ctx.Done():
			return
		}
	}
}
