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
	// DriftMillis is how far the node's clock is ahead of the server's, less what its last
	// word took.
	DriftMillis int64 `json:"driftMillis,omitempty"`
	// Incompatible says that the server does not speak the node's protocol: it gets
	// nothing to do.
	Incompatible bool `json:"incompatible,omitempty"`
	// OtherBuild says that the node runs another version than the server.
	OtherBuild bool `json:"otherBuild,omitempty"`
	// Gone says that nothing is heard of the node, and that it is to drain when it comes
	// back.
	Gone bool `json:"gone,omitempty"`
}

// Nodes lists the nodes that the server knows.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var list struct {
		Nodes []Node `json:"nodes"`
	}
	err := c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "nodes")}, &list)
	return list.Nodes, err
}

// DrainNode has a node take nothing new and give up what it has, as soon as that is
// replaced elsewhere. Said again it changes nothing. It does not wait for the node: ask
// [Client.Drain] how far it is.
func (c *Client) DrainNode(ctx context.Context, node wire.NodeID) (wire.DrainState, error) {
	return c.drain(ctx, http.MethodPut, node)
}

// UndrainNode has a node that drains work again.
func (c *Client) UndrainNode(ctx context.Context, node wire.NodeID) (wire.DrainState, error) {
	return c.drain(ctx, http.MethodDelete, node)
}

// Drain says how far a node is that drains.
func (c *Client) Drain(ctx context.Context, node wire.NodeID) (wire.DrainState, error) {
	return c.drain(ctx, http.MethodGet, node)
}

func (c *Client) drain(ctx context.Context, method string, node wire.NodeID) (state wire.DrainState, err error) {
	if !wire.ValidName(string(node)) {
		return state, wire.Errorf(wire.CodeInvalid, "%.80q is not a node's name", string(node))
	}
	err = c.call(ctx, c.timeout, request{method: method, url: c.at(nil, "v1", "nodes", string(node), "drain")}, &state)
	return state, err
}

// Ready returns nil when the server would answer a call. Otherwise the error
// says what is missing; its code is unavailable if the server says so itself.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "readyz")}, nil)
}

// Health is what a server finds when it looks around.
type Health struct {
	// Build is the server's version, Now its clock.
	Build  string        `json:"build"`
	Now    time.Time     `json:"now"`
	Checks []HealthCheck `json:"checks"`
}

// HealthCheck is one part of the platform.
type HealthCheck struct {
	Name string `json:"name"`
	// Problem says what is wrong with it and what to do; empty if nothing is.
	Problem string `json:"problem,omitempty"`
}

// Health asks which parts of the platform are there.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "health")}, &h)
	return h, err
}

// Role is a process of the cluster that answered when it was asked.
type Role struct {
	wire.RoleState
	// DriftMillis is how far its clock is ahead of the server's, less what its answer took.
	DriftMillis int64 `json:"driftMillis,omitempty"`
}

// Roles lists the processes of the cluster that answer the server, and the protocol that
// the server speaks.
func (c *Client) Roles(ctx context.Context) (roles []Role, protocol int, err error) {
	var list struct {
		Protocol int    `json:"protocol"`
		Roles    []Role `json:"roles"`
	}
	err = c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "roles")}, &list)
	return list.Roles, list.Protocol, err
}
