package docker

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

const rootRepository = "dayfly-root-"

// reference is the image that holds a root. All sandboxes of an engine share it.
func reference(r sandbox.Root) string { return rootRepository + r.Name + ":" + string(r.Digest) }

// Roots lists the roots that the engine holds.
func (s *Sandbox) Roots(ctx context.Context) ([]sandbox.StoredRoot, error) {
	list, err := s.client.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", rootRepository+"*"))})
	if err != nil {
		return nil, s.wrap("list images", err)
	}
	var roots []sandbox.StoredRoot
	for _, i := range list {
		for _, tag := range i.RepoTags {
			name, digest, _ := strings.Cut(strings.TrimPrefix(tag, rootRepository), ":")
			if d := wire.Digest(digest); d.Valid() && strings.HasPrefix(tag, rootRepository) {
				roots = append(roots, sandbox.StoredRoot{Root: sandbox.Root{Name: name, Digest: d}, Bytes: i.Size})
			}
		}
	}
	return roots, nil
}

// RemoveRoot removes a root's image unless a container uses it.
func (s *Sandbox) RemoveRoot(ctx context.Context, root sandbox.Root) error {
	_, err := s.client.ImageRemove(ctx, reference(root), image.RemoveOptions{PruneChildren: true})
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case errdefs.IsConflict(err):
		return sandbox.ErrRootInUse
	}
	return s.wrap("remove image "+reference(root), err)
}
