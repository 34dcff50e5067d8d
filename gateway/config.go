package gateway

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// routeConfig adds what is about the configuration of functions.
func (g *Gateway) routeConfig(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/functions/{ref}/config", "getConfig",
		"What a function is configured with at run time; it need not be deployed yet"), g.getConfig)
	huma.Register(api, operation(http.MethodPatch, "/v1/functions/{ref}/config", "changeConfig",
		"Set and remove values, all at once; instances that run hear of it"), g.changeConfig)
}

// functionInput names a function without a version.
type functionInput struct {
	Ref string `path:"ref" doc:"name[.namespace]" example:"resize.team-a"`
}

type configAnswer struct{ Body functions.Config }

func (g *Gateway) getConfig(ctx context.Context, in *functionInput) (*configAnswer, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	config, err := g.deps.Settings.Config(ctx, id)
	if err != nil {
		return nil, newProblem(err)
	}
	return &configAnswer{Body: config}, nil
}

type configChange struct {
	Ref  string `path:"ref" doc:"name[.namespace]" example:"resize.team-a"`
	Body struct {
		Set    map[string]string `json:"set,omitempty" doc:"Values by name"`
		Remove []string          `json:"remove,omitempty" doc:"Names of values to remove" maxItems:"1000"`
	}
}

func (g *Gateway) changeConfig(ctx context.Context, in *configChange) (*configAnswer, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	for _, name := range in.Body.Remove {
		if _, both := in.Body.Set[name]; both {
			return nil, newProblem(wire.Errorf(wire.CodeInvalid, "%q is to be set and removed; do one of the two", name))
		}
	}
	config, err := g.deps.Settings.ChangeConfig(ctx, id, in.Body.Set, in.Body.Remove)
	if err != nil {
		return nil, newProblem(err)
	}
	// Names only: a value may be what its owner shows to nobody.
	g.log.Info("configuration changed", telemetry.KeyFunction, id.String(), "revision", config.Revision,
		"set", slices.Sorted(maps.Keys(in.Body.Set)), "removed", in.Body.Remove)
	return &configAnswer{Body: config}, nil
}

// forgetSettings removes the settings of a function whose delete ended with deleted.
// That of a function that is not there is well if it had some: it was never deployed,
// or an earlier delete was broken off.
func (g *Gateway) forgetSettings(ctx context.Context, id wire.FunctionID, deleted error) error {
	if deleted != nil && !wire.HasCode(deleted, wire.CodeNotFound) {
		return deleted
	}
	had, err := g.deps.Settings.Forget(ctx, id)
	if err != nil {
		return wire.Errorf(wire.AsError(err).Code, "some settings of %s are left; delete it again: %s", id, wire.AsError(err).Message)
	}
	if had {
		return nil
	}
	return deleted
}
