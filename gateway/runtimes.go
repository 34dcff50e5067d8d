package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// routeRuntimes adds what lists and rebuilds the runtimes' root file systems.
func (g *Gateway) routeRuntimes(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/runtimes", "listRuntimes", "List the root file systems of runtimes"), g.listRuntimes)
	op := rawOperation(http.MethodPost, "/v1/runtimes/{name}/rebuild", "rebuildRuntime",
		"Make a runtime's root file system anew: of packages, or of the image archive in the body. Nodes use it for new containers",
		"application/x-tar", "application/json", http.StatusOK)
	op.RequestBody.Required = false
	api.OpenAPI().AddOperation(&op)
	g.router.Method(op.Method, op.Path, rawHandler(g.rebuildRuntime))
}

type runtimeList struct {
	Body struct {
		Roots []wire.RuntimeRoot `json:"roots"`
	}
}

// listRuntimes lists the roots that are stored, and those of this release that the
// cluster has not made yet.
func (g *Gateway) listRuntimes(ctx context.Context, _ *struct{}) (*runtimeList, error) {
	stored, err := g.roots.List(ctx)
	if err != nil {
		return nil, newProblem(wire.Errorf(wire.CodeUnavailable, "the index of roots could not be read: %s", err))
	}
	out := &runtimeList{}
	out.Body.Roots = []wire.RuntimeRoot{}
	for _, root := range stored {
		out.Body.Roots = append(out.Body.Roots, wire.RuntimeRoot{Root: root, Runtimes: usersOf(root)})
	}
	for _, rt := range runtimes.All() {
		if !slices.ContainsFunc(out.Body.Roots, func(r wire.RuntimeRoot) bool { return slices.Contains(r.Runtimes, rt.Name) }) {
			root := wire.Root{Name: rt.Root(), Arch: runtime.GOARCH, Recipe: rt.RootDigest()}
			out.Body.Roots = append(out.Body.Roots, wire.RuntimeRoot{Root: root, Runtimes: usersOf(root)})
		}
	}
	return out, nil
}

// usersOf returns the runtimes of this release that use a root. A recipe says for which
// architecture it is, so that of another cannot be compared.
func usersOf(root wire.Root) []string {
	names := []string{}
	for _, rt := range runtimes.All() {
		if rt.Root() == root.Name && (root.Arch != runtime.GOARCH || rt.RootDigest() == root.Recipe) {
			names = append(names, rt.Name)
		}
	}
	return names
}

// rebuilt is the answer to a rebuild.
type rebuilt struct {
	Root wire.RuntimeRoot `json:"root"`
	Log  string           `json:"log,omitempty"`
}

// rebuildRuntime has a builder make a root anew.
func (g *Gateway) rebuildRuntime(w http.ResponseWriter, r *http.Request) error {
	root, err := rootNamed(chi.URLParam(r, "name"))
	if err != nil {
		return err
	}
	ctx, cancel := g.cuttable(r.Context())
	defer cancel()
	req := wire.RebuildRequest{ID: uuid.NewString(), Root: root}
	switch {
	case r.ContentLength < 0:
		return wire.Errorf(wire.CodeInvalid, "send the image archive with a Content-Length, or nothing to use packages")
	case r.ContentLength > wire.MaxImageArchive:
		return wire.Errorf(wire.CodeTooLarge, "the image archive is over %d MiB", wire.MaxImageArchive>>20)
	case r.ContentLength > 0:
		req.Archive = wire.BundleKey(req.ID)
		defer g.removeBundle(ctx, req.Archive)
		if err := g.storeArchive(ctx, w, r, req.Archive); err != nil {
			return err
		}
	}
	reply, err := g.rebuild(ctx, req)
	if err != nil {
		return err
	}
	g.log.Info("root rebuilt", "root", root, "digest", string(reply.Root.Digest))
	return writeJSON(w, http.StatusOK, rebuilt{Root: wire.RuntimeRoot{Root: *reply.Root, Runtimes: usersOf(*reply.Root)}, Log: reply.Log})
}

// rootNamed finds a root by its own name or by that of a runtime that uses it.
func rootNamed(name string) (string, error) {
	var known []string
	for _, rt := range runtimes.All() {
		if name == rt.Name || name == rt.Root() {
			return rt.Root(), nil
		}
		known = append(known, rt.Name)
	}
	return "", wire.Errorf(wire.CodeNotFound, "there is no runtime %q; those with a root of Dayfly's are %s", name, strings.Join(known, ", "))
}

func (g *Gateway) storeArchive(ctx context.Context, w http.ResponseWriter, r *http.Request, key string) error {
	defer boundBody(w, uploadTimeout)()
	err := g.deps.Store.Put(ctx, key, r.Body, r.ContentLength, "application/x-tar")
	switch {
	case errors.Is(err, blob.ErrSource):
		return wire.Errorf(wire.CodeInvalid, "the upload was broken off: %s", err)
	case err != nil:
		return wire.Errorf(wire.CodeUnavailable, "the image archive could not be stored: %s", err)
	}
	return nil
}

func (g *Gateway) rebuild(ctx context.Context, req wire.RebuildRequest) (reply wire.RebuildReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	err = g.askBuilder(ctx, wire.RebuildSubject, req, &reply)
	switch {
	case err != nil:
		return reply, err
	case reply.Error != nil:
		return reply, reply.Error
	case reply.Root == nil:
		return reply, wire.Errorf(wire.CodeInternal, "the builder answered without a root")
	}
	return reply, nil
}

// askBuilder sends a request to one builder and reads its answer.
func (g *Gateway) askBuilder(ctx context.Context, subject string, req, reply any) error {
	data, err := json.Marshal(req)
	if err != nil {
		return wire.AsError(err)
	}
	answer, err := g.deps.Conn.Request(ctx, subject, data)
	if errors.Is(err, bus.ErrNoResponders) {
		return wire.Errorf(wire.CodeUnavailable, "no builder is connected; start one with `dayfly builder`")
	}
	if err == nil {
		err = json.Unmarshal(answer, reply)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return wire.Errorf(wire.CodeUnavailable, "the builder did not answer: %s", err)
	}
	return nil
}
