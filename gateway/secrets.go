package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// maxSecretBody bounds the body that brings a value: JSON may take six bytes for one.
const maxSecretBody = 6*functions.MaxSecretBytes + 1024

// routeSecrets adds what is about the secrets of functions. No answer has a value.
func (g *Gateway) routeSecrets(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/functions/{ref}/secrets", "listSecrets",
		"List the names of the secrets that are set for a function"), g.listSecrets)
	remove := operation(http.MethodDelete, "/v1/functions/{ref}/secrets/{name}", "unsetSecret", "Remove a secret")
	remove.DefaultStatus = http.StatusNoContent
	huma.Register(api, remove, g.unsetSecret)
	huma.Register(api, operation(http.MethodPost, "/v1/secrets/rotate", "rotateSecrets",
		"Seal all secrets anew, with the first key of the gateway's file"), g.rotateSecrets)
	// By hand: huma's own errors repeat what they do not like, and that may be the value.
	set := rawOperation(http.MethodPut, "/v1/functions/{ref}/secrets/{name}", "setSecret",
		`Set a secret: {"value": "…"}. The function need not be deployed yet`, "application/json", "application/json", http.StatusOK)
	api.OpenAPI().AddOperation(&set)
	g.router.Method(set.Method, set.Path, rawHandler(g.setSecret))
}

type secretList struct {
	Body struct {
		Secrets []functions.SecretInfo `json:"secrets"`
	}
}

func (g *Gateway) listSecrets(ctx context.Context, in *functionInput) (*secretList, error) {
	id, err := unqualified(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &secretList{}
	if out.Body.Secrets, err = g.deps.Settings.Secrets(ctx, id); err != nil {
		return nil, newProblem(err)
	}
	return out, nil
}

func (g *Gateway) setSecret(w http.ResponseWriter, r *http.Request) error {
	id, err := unqualified(refParam(r))
	if err != nil {
		return err
	}
	name := chi.URLParam(r, "name")
	value, err := readSecret(w, r)
	if err != nil {
		return err
	}
	info, err := g.deps.Settings.SetSecret(r.Context(), id, name, value, time.Now())
	if err != nil {
		return err
	}
	g.log.Info("secret set", telemetry.KeyFunction, id.String(), "name", name)
	return writeJSON(w, http.StatusOK, info)
}

// readSecret reads a value. Its errors show nothing of it.
func readSecret(w http.ResponseWriter, r *http.Request) (functions.Secret, error) {
	defer boundBody(w, uploadTimeout)()
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSecretBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return functions.Secret{}, wire.Errorf(wire.CodeTooLarge, "the secret's value is too large; at most %d bytes are allowed", functions.MaxSecretBytes)
	case err != nil:
		return functions.Secret{}, wire.Errorf(wire.CodeInvalid, "the upload was broken off")
	}
	var body struct {
		Value *string `json:"value"`
	}
	if err := json.Unmarshal(data, &body); err != nil || body.Value == nil {
		return functions.Secret{}, wire.Errorf(wire.CodeInvalid, `the body must be {"value": "…"}`)
	}
	return functions.NewSecret(*body.Value), nil
}

func (g *Gateway) unsetSecret(ctx context.Context, in *struct {
	Ref  string `path:"ref" doc:"name[.namespace]" example:"resize.team-a"`
	Name string `path:"name" doc:"The secret's name" example:"API_TOKEN"`
}) (*struct{}, error) {
	id, err := unqualified(in.Ref)
	if err == nil {
		err = g.deps.Settings.UnsetSecret(ctx, id, in.Name)
	}
	if err != nil {
		return nil, newProblem(err)
	}
	g.log.Info("secret removed", telemetry.KeyFunction, id.String(), "name", in.Name)
	return nil, nil //nolint:nilnil // no body, which huma answers as 204
}

type rotation struct {
	Body struct {
		Secrets int `json:"secrets" doc:"How many were sealed anew"`
	}
}

func (g *Gateway) rotateSecrets(ctx context.Context, _ *struct{}) (*rotation, error) {
	out := &rotation{}
	var err error
	if out.Body.Secrets, err = g.deps.Settings.Rotate(ctx); err != nil {
		return nil, newProblem(err)
	}
	g.log.Info("secrets sealed anew", "count", out.Body.Secrets)
	return out, nil
}

// requireSecrets refuses a version that is to be live and uses a secret that is not set.
func (g *Gateway) requireSecrets(ctx context.Context, id wire.FunctionID, spec functions.Spec) error {
	return g.deps.Settings.Require(ctx, id, spec.Secrets)
}
