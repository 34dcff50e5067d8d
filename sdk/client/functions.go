package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Resolved is a function and the version that a reference stands for.
type Resolved struct {
	Function functions.Function `json:"function"`
	Version  functions.Version  `json:"version"`
}

// Functions lists the functions of a namespace, or of all when it is empty,
// sorted by namespace and name.
func (c *Client) Functions(ctx context.Context, namespace string) ([]functions.Function, error) {
	query := url.Values{}
	if namespace != "" {
		if err := checkNamespace(namespace); err != nil {
			return nil, err
		}
		query.Set("namespace", namespace)
	}
	var list struct {
		Functions []functions.Function `json:"functions"`
	}
	err := c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(query, "v1", "functions")}, &list)
	return list.Functions, err
}

// Function returns a function and the version that ref stands for.
func (c *Client) Function(ctx context.Context, ref string) (Resolved, error) {
	r, err := parseRef(ref)
	if err != nil {
		return Resolved{}, err
	}
	var resolved Resolved
	err = c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "functions", r.String())}, &resolved)
	return resolved, err
}

// Delete deletes a function with all its versions and aliases.
func (c *Client) Delete(ctx context.Context, id wire.FunctionID) error {
	r, err := parseRef(id.Name + "." + id.Namespace)
	if err != nil {
		return err
	}
	return c.call(ctx, c.timeout, request{method: http.MethodDelete, url: c.at(nil, "v1", "functions", r.String())}, nil)
}

func checkNamespace(namespace string) error {
	if !wire.ValidName(namespace) {
		return wire.Errorf(wire.CodeInvalid,
			"%q is not a namespace: use lower-case letters, digits and inner hyphens, at most 63", fmt.Sprintf("%.80s", namespace))
	}
	return nil
}
