package gateway

import (
	"context"

	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

type roleList struct {
	Body struct {
		// Protocol is what this gateway speaks.
		Protocol int           `json:"protocol"`
		Roles    []roster.Role `json:"roles"`
	}
}

func (g *Gateway) listRoles(ctx context.Context, _ *struct{}) (*roleList, error) {
	roles, err := roster.Roles(ctx, g.deps.Conn, g.log)
	if err != nil {
		return nil, newProblem(wire.Errorf(wire.CodeUnavailable, "%s", err))
	}
	out := &roleList{}
	out.Body.Protocol, out.Body.Roles = wire.Protocol, roles
	return out, nil
}
