package gateway

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// routeVersions adds what is about versions and aliases.
func (g *Gateway) routeVersions(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/functions/{ref}/versions", "listVersions",
		"List the versions of a function, the newest first"), g.listVersions)
	huma.Register(api, operation(http.MethodGet, "/v1/functions/{ref}/aliases", "listAliases", "List the aliases of a function"), g.listAliases)
	huma.Register(api, operation(http.MethodPut, "/v1/functions/{ref}/aliases/{alias}", "setAlias",
		"Point an alias to a version, or split its calls between two"), g.setAlias)
	remove := operation(http.MethodDelete, "/v1/functions/{ref}/aliases/{alias}", "deleteAlias", "Remove an alias")
	remove.DefaultStatus = http.StatusNoContent
	huma.Register(api, remove, g.deleteAlias)
	huma.Register(api, operation(http.MethodPost, "/v1/functions/{ref}/rollback", "rollbackFunction",
		"Make the version live that was live before, or another"), g.rollback)
	code := rawOperation(http.MethodGet, "/v1/functions/{ref}/code", "getCode",
		"The artifact that a version runs: a gzip-compressed tar", "", "application/gzip", http.StatusOK)
	api.OpenAPI().AddOperation(&code)
	g.router.Method(code.Method, code.Path, rawHandler(g.getCode))
}

type versionList struct {
	Body struct {
		Versions []listedVersion `json:"versions"`
	}
}

// listedVersion is a version and what points to it.
type listedVersion struct {
	functions.Version
	Aliases []versionAlias `json:"aliases"`
}

// versionAlias is an alias as one of its versions sees it.
type versionAlias struct {
	Name string `json:"name"`
	// Percent is the version's share of the alias's calls.
	Percent int `json:"percent"`
}

// aliasesOf lists the aliases that send calls to a version, by name.
func aliasesOf(f functions.Function, number int) []versionAlias {
	list := []versionAlias{}
	for _, name := range slices.Sorted(maps.Keys(f.Aliases)) {
		a := f.Aliases[name]
		if percent := a.Percent(number); percent > 0 {
			list = append(list, versionAlias{name, percent})
		}
	}
	return list
}

func (g *Gateway) listVersions(_ context.Context, in *refInput) (*versionList, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	f, versions, err := g.cache.Versions(id)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &versionList{}
	out.Body.Versions = make([]listedVersion, len(versions))
	for i, v := range versions {
		out.Body.Versions[i] = listedVersion{v, aliasesOf(f, v.Number)}
	}
	return out, nil
}

// unqualified reads a reference to a function as a whole.
func unqualified(text string) (wire.FunctionID, error) {
	ref, err := wire.ParseRef(text)
	if err != nil {
		return wire.FunctionID{}, invalid(err)
	}
	if ref.Qualifier != wire.LiveAlias {
		return wire.FunctionID{}, wire.Errorf(wire.CodeInvalid, "name the function without a version: %s", ref.FunctionID)
	}
	return ref.FunctionID, nil
}

// getCode gives out the artifact of a version.
func (g *Gateway) getCode(w http.ResponseWriter, r *http.Request) error {
	_, v, err := g.resolveBy(refParam(r), functions.MainDraw)
	if err != nil {
		return err
	}
	if v.Image != nil {
		return wire.Errorf(wire.CodeInvalid, "%s runs a container image, which is not given out here; its digest is sha256:%s", v.VersionID, v.Code)
	}
	object, err := g.deps.Store.Get(r.Context(), wire.CodeKey(v.Code))
	if errors.Is(err, blob.ErrNotFound) {
		return wire.Errorf(wire.CodeInternal, "the artifact of %s is not in S3; deploy the function again", v.VersionID)
	}
	if err != nil {
		return wire.Errorf(wire.CodeUnavailable, "the artifact could not be read: %s", err)
	}
	defer func() { _ = object.Close() }()
	h := w.Header()
	h.Set("Content-Type", "application/gzip")
	h.Set("Content-Length", strconv.FormatInt(object.Size, 10))
	h.Set("Content-Disposition", `attachment; filename="`+v.Name+"-"+strconv.Itoa(v.Number)+`.tar.gz"`)
	h.Set(wire.HeaderVersion, strconv.Itoa(v.Number))
	if _, err := io.Copy(w, object); err != nil {
		g.log.Debug("artifact broken off", telemetry.KeyFunction, v.String(), telemetry.KeyError, err)
	}
	return nil
}
