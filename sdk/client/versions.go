package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// ListedVersion is a version and the aliases that send calls to it.
type ListedVersion struct {
	functions.Version
	Aliases []VersionAlias `json:"aliases"`
}

// VersionAlias is an alias as one of its versions sees it.
type VersionAlias struct {
	Name string `json:"name"`
	// Percent is the version's share of the alias's calls.
	Percent int `json:"percent"`
}

// Versions lists the versions of a function, the newest first.
func (c *Client) Versions(ctx context.Context, id wire.FunctionID) ([]ListedVersion, error) {
	var list struct {
		Versions []ListedVersion `json:"versions"`
	}
	err := c.callFunction(ctx, http.MethodGet, id, nil, &list, "versions")
	return list.Versions, err
}

// Aliases returns the aliases of a function by name.
func (c *Client) Aliases(ctx context.Context, id wire.FunctionID) (map[string]functions.Alias, error) {
	var list struct {
		Aliases map[string]functions.Alias `json:"aliases"`
	}
	err := c.callFunction(ctx, http.MethodGet, id, nil, &list, "aliases")
	return list.Aliases, err
}

// SetAlias points an alias of a function somewhere, making it when there is none, and
// returns the function as it is then. The alias live moves only to what starts.
func (c *Client) SetAlias(ctx context.Context, id wire.FunctionID, name string, to functions.Alias) (functions.Function, error) {
	var answer struct {
		Function functions.Function `json:"function"`
	}
	if err := checkAlias(name); err != nil {
		return answer.Function, err
	}
	err := c.callFunction(ctx, http.MethodPut, id, to, &answer, "aliases", name)
	return answer.Function, err
}

// DeleteAlias removes an alias of a function, which live cannot be.
func (c *Client) DeleteAlias(ctx context.Context, id wire.FunctionID, name string) error {
	if err := checkAlias(name); err != nil {
		return err
	}
	return c.callFunction(ctx, http.MethodDelete, id, nil, nil, "aliases", name)
}

func checkAlias(name string) error {
	if !functions.ValidAlias(name) {
		return wire.Errorf(wire.CodeInvalid,
			"%q cannot name an alias: use lower-case letters, digits and inner hyphens, at most 63, and not only digits", fmt.Sprintf("%.80s", name))
	}
	return nil
}

// RolledBack is what a rollback did.
type RolledBack struct {
	// From is the version that was live, To the one that is.
	From     int                `json:"from"`
	To       int                `json:"to"`
	Function functions.Function `json:"function"`
}

// Rollback makes a version live, or with 0 the one that was live before.
func (c *Client) Rollback(ctx context.Context, id wire.FunctionID, to int) (RolledBack, error) {
	var done RolledBack
	question := struct {
		To int `json:"to,omitempty"`
	}{to}
	err := c.callFunction(ctx, http.MethodPost, id, question, &done, "rollback")
	return done, err
}

// artifactType is how an artifact comes.
const artifactType = "application/gzip"

// Code writes the artifact of a version, a gzip-compressed tar, to w. It has no bound
// but its context and [wire.MaxBundleUnpacked], which no artifact's size passes.
func (c *Client) Code(ctx context.Context, id wire.VersionID, w io.Writer) error {
	ref, err := parseRef(id.Name + "." + id.Namespace + ":" + strconv.Itoa(id.Number))
	if err != nil {
		return err
	}
	r := request{method: http.MethodGet, url: c.at(nil, "v1", "functions", ref.String(), "code")}
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	if mediaType(resp) != artifactType {
		return c.unexpected(ctx, r, resp)
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, wire.MaxBundleUnpacked+1))
	switch {
	case err != nil:
		return c.transportError(ctx, r, err)
	case n > wire.MaxBundleUnpacked:
		return wire.Errorf(wire.CodeTooLarge, "the artifact of %s has more than %d bytes", id, wire.MaxBundleUnpacked)
	}
	return nil
}

// callFunction asks something about a function as a whole; body is sent as JSON unless
// it is nil.
func (c *Client) callFunction(ctx context.Context, method string, id wire.FunctionID, body, out any, path ...string) error {
	ref, err := parseRef(id.Name + "." + id.Namespace)
	if err != nil {
		return err
	}
	r := request{method: method, url: c.at(nil, append([]string{"v1", "functions", ref.String()}, path...)...)}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		r.body, r.bytes, r.contentType = bytes.NewReader(data), int64(len(data)), jsonType
	}
	return c.call(ctx, c.timeout, r, out)
}
