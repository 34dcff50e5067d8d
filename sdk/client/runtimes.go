package client

import (
	"context"
	"io"
	"net/http"

	"github.com/dayfly-run/dayfly/wire"
)

// Rebuilt is what a rebuild made.
type Rebuilt struct {
	Root wire.RuntimeRoot `json:"root"`
	// Log is what the build printed.
	Log string `json:"log"`
}

// Runtimes lists the root file systems of runtimes.
func (c *Client) Runtimes(ctx context.Context) ([]wire.RuntimeRoot, error) {
	var list struct {
		Roots []wire.RuntimeRoot `json:"roots"`
	}
	err := c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "runtimes")}, &list)
	return list.Roots, err
}

// RebuildRuntime makes the root file system of a runtime anew and waits until that is
// done: of an image archive, which is read from its start, at most
// [wire.MaxImageArchive] bytes, or of packages when archive is nil. Nodes use it for
// new containers.
func (c *Client) RebuildRuntime(ctx context.Context, name string, archive io.ReadSeeker) (Rebuilt, error) {
	r := request{method: http.MethodPost, url: c.at(nil, "v1", "runtimes", name, "rebuild")}
	if archive != nil {
		size, err := measure("image archive", archive, wire.MaxImageArchive)
		if err != nil {
			return Rebuilt{}, err
		}
		body := &upload{reader: archive}
		defer body.stop()
		r.body, r.bytes, r.contentType, r.askFirst = body, size, tarType, true
	}
	var rebuilt Rebuilt
	err := c.call(ctx, DeployTimeout, r, &rebuilt)
	return rebuilt, err
}
