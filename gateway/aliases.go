package gateway

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

type aliasList struct {
	Body struct {
		Aliases map[string]functions.Alias `json:"aliases"`
	}
}

func (g *Gateway) listAliases(_ context.Context, in *refInput) (*aliasList, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	f, _, err := g.cache.Versions(id)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &aliasList{}
	out.Body.Aliases = f.Aliases
	return out, nil
}

type aliasInput struct {
	Ref   string `path:"ref" doc:"name[.namespace]" example:"resize.team-a"`
	Alias string `path:"alias" doc:"name of the alias" example:"prod"`
}

type setAliasInput struct {
	Ref   string `path:"ref" doc:"name[.namespace]" example:"resize.team-a"`
	Alias string `path:"alias" doc:"name of the alias" example:"prod"`
	Body  functions.Alias
}

type functionAnswer struct {
	Body struct {
		Function functions.Function `json:"function"`
	}
}

func (g *Gateway) setAlias(ctx context.Context, in *setAliasInput) (*functionAnswer, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &functionAnswer{}
	set := func(ctx context.Context) (revision uint64, err error) {
		out.Body.Function, revision, err = g.deps.Registry.SetAlias(ctx, id, in.Alias, in.Body, time.Now())
		return revision, err
	}
	if in.Alias == wire.LiveAlias {
		err = g.moveLive(ctx, id, in.Body, set)
	} else {
		err = g.changed(ctx, set)
	}
	if err != nil {
		return nil, newProblem(err)
	}
	g.log.Info("alias set", telemetry.KeyFunction, id.String(), "alias", in.Alias, "version", in.Body.String())
	return out, nil
}

func (g *Gateway) deleteAlias(ctx context.Context, in *aliasInput) (*struct{}, error) {
	id, err := unqualified(in.Ref)
	if err == nil {
		err = g.changed(ctx, func(ctx context.Context) (revision uint64, err error) {
			_, revision, err = g.deps.Registry.RemoveAlias(ctx, id, in.Alias, time.Now())
			return revision, err
		})
	}
	if err != nil {
		return nil, newProblem(err)
	}
	g.log.Info("alias removed", telemetry.KeyFunction, id.String(), "alias", in.Alias)
	return nil, nil //nolint:nilnil // no body, which huma answers as 204
}

type rollbackInput struct {
	Ref  string `path:"ref" doc:"name[.namespace]" example:"resize.team-a"`
	Body *struct {
		To int `json:"to,omitempty" minimum:"0" doc:"The version to make live; 0 or none for the one that was live before"`
	}
}

type rollbackAnswer struct {
	Body struct {
		// From is the version that was live, To the one that is.
		From     int                `json:"from"`
		To       int                `json:"to"`
		Function functions.Function `json:"function"`
	}
}

func (g *Gateway) rollback(ctx context.Context, in *rollbackInput) (*rollbackAnswer, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	// Where it leads to must be known first, for its triggers.
	f, err := g.deps.Registry.Function(ctx, id)
	if err != nil {
		return nil, newProblem(err)
	}
	to := 0
	if in.Body != nil {
		to = in.Body.To
	}
	_, to, err = f.Rollback(to, time.Now())
	if err != nil {
		return nil, newProblem(err)
	}
	var done registry.RolledBack
	err = g.moveLive(ctx, id, functions.Alias{Version: to}, func(ctx context.Context) (uint64, error) {
		var err error
		done, err = g.deps.Registry.Rollback(ctx, id, to, time.Now())
		return done.Revision, err
	})
	if err != nil {
		return nil, newProblem(err)
	}
	g.log.Info("rolled back", telemetry.KeyFunction, id.String(), "from", done.From, "to", done.To)
	out := &rollbackAnswer{}
	out.Body.From, out.Body.To, out.Body.Function = done.From, done.To, done.Function
	return out, nil
}

// moveLive makes a change that points live to an alias's versions, with all that a deploy
// does about it: what does not start is not made live, unless it was live already, and
// triggers follow the main version.
func (g *Gateway) moveLive(ctx context.Context, id wire.FunctionID, to functions.Alias, move func(context.Context) (uint64, error)) error {
	f, err := g.deps.Registry.Function(ctx, id)
	if err != nil {
		return err
	}
	var main functions.Version
	for i, number := range to.Versions() {
		if !f.Has(number) {
			break // the change says so
		}
		v, err := g.deps.Registry.Version(ctx, wire.VersionID{FunctionID: id, Number: number})
		if err != nil {
			return err
		}
		if i == 0 {
			main = v
		}
		if number == f.Previous || f.Aliases[wire.LiveAlias].Percent(number) > 0 {
			continue // it was live, so it starts
		}
		if err := g.checkMove(ctx, v); err != nil {
			return err
		}
	}
	before := g.triggersOf(id)
	if err := g.deps.Sources.Prepare(ctx, id, main.Spec.Triggers); err != nil {
		return err
	}
	err = g.changed(ctx, move)
	if err == nil {
		g.prune(ctx, id, before, main.Spec.Triggers)
	}
	g.tidy(ctx, id, main.Spec.Triggers)
	return err
}

// changed makes a change and returns when it is seen here.
func (g *Gateway) changed(ctx context.Context, change func(context.Context) (uint64, error)) error {
	revision, err := change(ctx)
	if err != nil {
		return err
	}
	return g.cache.Await(ctx, revision)
}
