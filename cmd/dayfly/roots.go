package main

import (
	"context"
	"errors"
	"io"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/invoker"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// rootSource gives nodes their root file systems out of the cluster's store.
type rootSource struct{ store *roots.Store }

var _ invoker.Roots = rootSource{}

// Current implements [invoker.Roots]. A root that the cluster has not made yet is made
// when it is first opened: a machine may have it from another cluster.
func (s rootSource) Current(ctx context.Context, rt runtimes.Runtime) (sandbox.Root, error) {
	recipe := builder.PackagesRecipe(rt)
	id := recipe.Digest
	root, err := s.store.Current(ctx, recipe)
	switch {
	case err == nil:
		id = root.ID()
	case !errors.Is(err, bus.ErrNotFound):
		return sandbox.Root{}, err
	}
	return sandbox.Root{Name: rt.Root(), Digest: id, Open: func(ctx context.Context) (io.ReadCloser, error) {
		stored, err := s.store.Ensure(ctx, recipe)
		if err != nil {
			return nil, err
		}
		return s.store.Open(ctx, stored)
	}}, nil
}

// Image implements [invoker.Roots].
func (s rootSource) Image(d wire.Digest) sandbox.Root {
	return sandbox.Root{Name: runtimes.ImageName, Digest: d, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return s.store.OpenImage(ctx, d)
	}}
}

// Watch implements [invoker.Roots].
func (s rootSource) Watch(ctx context.Context, changed func()) (stop func(), err error) {
	return s.store.Watch(ctx, changed)
}
