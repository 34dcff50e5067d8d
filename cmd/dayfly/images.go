package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/internal/lifecycle"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/docker"
)

// imageMaker makes images by a Docker Engine, which need not be what runs functions:
// where one answers, it is used.
type imageMaker struct {
	engine *docker.Sandbox
	cores  int64 // in thousandths
}

var _ builder.Images = imageMaker{}

// openImages finds what makes images: the sandbox's engine, or else the one that
// DOCKER_HOST names, if it answers when it is needed.
func (p *process) openImages(owner string, containers sandbox.Sandbox, cores int64, log *slog.Logger) (imageMaker, error) {
	if engine, ok := containers.(*docker.Sandbox); ok {
		return imageMaker{engine, cores}, nil
	}
	engine, err := docker.New(owner, log)
	if err != nil {
		return imageMaker{}, err
	}
	p.group.Add("image builds", lifecycle.Func{
		OnStart: func(ctx context.Context) error {
			_, err := engine.Sweep(ctx)
			return ignoreUnavailable(err) // a Dockerfile is refused, with the reason
		},
		OnStop: func(ctx context.Context) error {
			return ignoreUnavailable(engine.Close(ctx)) // it holds nothing of ours then
		},
	})
	return imageMaker{engine, cores}, nil
}

func ignoreUnavailable(err error) error {
	if errors.Is(err, sandbox.ErrUnavailable) {
		return nil
	}
	return err
}

// Build implements [builder.Images].
func (m imageMaker) Build(ctx context.Context, job builder.ImageJob, archive io.Writer, most int64, out io.Writer) error {
	if err := m.check(ctx); err != nil {
		return err
	}
	return jobError(m.engine.BuildImage(ctx, docker.ImageBuild{
		ID: job.ID, Context: job.Context, Dockerfile: job.Dockerfile, Network: sandbox.Network(job.Network),
		Limits: sandbox.Limits{
			MemoryBytes: buildMemoryBytes, CPUMillis: m.cores, CPUShareMillis: 1000,
			PIDs: buildPIDs, OpenFiles: buildOpenFiles, FileBytes: buildFileBytes,
		},
	}, archive, most, out))
}

// Pull implements [builder.Images].
func (m imageMaker) Pull(ctx context.Context, reference string, archive io.Writer, most int64, out io.Writer) error {
	if err := m.check(ctx); err != nil {
		return err
	}
	return jobError(m.engine.PullImage(ctx, reference, archive, most, out))
}

func (m imageMaker) check(ctx context.Context) error {
	if err := m.engine.Check(ctx); err != nil {
		return fmt.Errorf("%w: %w", builder.ErrNoEngine, err)
	}
	return nil
}

func jobError(err error) error {
	if errors.Is(err, docker.ErrImage) {
		return fmt.Errorf("%w: %w", builder.ErrJob, err)
	}
	return err
}
