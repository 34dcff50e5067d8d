package client

import (
	"context"
	"net/http"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Config returns what a function is configured with at run time; it need not be deployed.
func (c *Client) Config(ctx context.Context, id wire.FunctionID) (functions.Config, error) {
	var config functions.Config
	err := c.callFunction(ctx, http.MethodGet, id, nil, &config, "config")
	return config, err
}

// ChangeConfig sets values of a function and removes others, all at once, and returns
// what it is configured with now. Instances that run hear of it within a second.
func (c *Client) ChangeConfig(ctx context.Context, id wire.FunctionID, set map[string]string, remove []string) (functions.Config, error) {
	var config functions.Config
	change := struct {
		Set    map[string]string `json:"set,omitempty"`
		Remove []string          `json:"remove,omitempty"`
	}{set, remove}
	err := c.callFunction(ctx, http.MethodPatch, id, change, &config, "config")
	return config, err
}

// Secrets lists the secrets that are set for a function. Nobody is told their values.
func (c *Client) Secrets(ctx context.Context, id wire.FunctionID) ([]functions.SecretInfo, error) {
	var list struct {
		Secrets []functions.SecretInfo `json:"secrets"`
	}
	err := c.callFunction(ctx, http.MethodGet, id, nil, &list, "secrets")
	return list.Secrets, err
}

// SetSecret sets a secret of a function, which need not be deployed.
func (c *Client) SetSecret(ctx context.Context, id wire.FunctionID, name string, value functions.Secret) (functions.SecretInfo, error) {
	var info functions.SecretInfo
	if err := functions.CheckSecretName(name); err != nil {
		return info, err
	}
	body := struct {
		Value string `json:"value"`
	}{value.Reveal()}
	err := c.callFunction(ctx, http.MethodPut, id, body, &info, "secrets", name)
	return info, err
}

// UnsetSecret removes a secret of a function. Instances that run lose its file, and keep
// its variable.
func (c *Client) UnsetSecret(ctx context.Context, id wire.FunctionID, name string) error {
	if err := functions.CheckSecretName(name); err != nil {
		return err
	}
	return c.callFunction(ctx, http.MethodDelete, id, nil, nil, "secrets", name)
}

// RotateSecrets seals all secrets anew, with the first key of the server's file, and
// returns how many there are.
func (c *Client) RotateSecrets(ctx context.Context) (int, error) {
	var done struct {
		Secrets int `json:"secrets"`
	}
	err := c.call(ctx, DeployTimeout, request{method: http.MethodPost, url: c.at(nil, "v1", "secrets", "rotate")}, &done)
	return done.Secrets, err
}
