package client

import (
	"context"
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Node is what a node last said of itself.
type Node struct {
	wire.NodeState
	// LastSeen is when that was, by the server's clock.
	LastSeen time.Time `json:"lastSeen"`
}

// Nodes lists the nodes that the server knows.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var list struct {
		Nodes []Node `json:"nodes"`
	}
	err := c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "nodes")}, &list)
	return list.Nodes, err
}

// Ready returns nil when the server would answer a call. Otherwise the error
// says what is missing; its code is unavailable if the server says so itself.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "readyz")}, nil)
}
