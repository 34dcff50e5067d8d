package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// routeNodes adds what is about nodes.
func (g *Gateway) routeNodes(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/nodes", "listNodes", "List nodes"), g.listNodes)
	for _, r := range []struct {
		method, id, summary string
		handle              func(context.Context, *nodeInput) (*drainAnswer, error)
	}{
		{http.MethodGet, "getDrain", "How far a node is that drains", g.getDrain},
		{http.MethodPut, "drainNode", "Drain a node: it takes nothing new, and what it keeps is replaced elsewhere; said again it changes nothing", g.drainNode},
		{http.MethodDelete, "undrainNode", "Have a node that drains work again", g.undrainNode},
	} {
		huma.Register(api, operation(r.method, "/v1/nodes/{node}/drain", r.id, r.summary), r.handle)
	}
}

// nodeView is a node as the API shows it. One that is only known by an order is gone.
type nodeView struct {
	dispatch.NodeView
	OtherBuild bool `json:"otherBuild,omitempty" doc:"It runs another version than the gateway"`
	Gone       bool `json:"gone,omitempty" doc:"Nothing is heard of it; it is to drain when it comes back"`
}

type nodeList struct {
	Body struct {
		Nodes []nodeView `json:"nodes"`
	}
}

func (g *Gateway) listNodes(context.Context, *struct{}) (*nodeList, error) {
	draining := g.orders.draining()
	out := &nodeList{}
	out.Body.Nodes = []nodeView{}
	for _, n := range g.dispatcher.Nodes() {
		out.Body.Nodes = append(out.Body.Nodes, nodeView{NodeView: n, OtherBuild: n.Build != g.deps.Build})
		delete(draining, n.Node)
	}
	for id := range draining {
		gone := nodeView{Gone: true}
		gone.Node, gone.Draining = id, true
		out.Body.Nodes = append(out.Body.Nodes, gone)
	}
	slices.SortFunc(out.Body.Nodes, func(a, b nodeView) int { return cmp.Compare(a.Node, b.Node) })
	return out, nil
}

type nodeInput struct {
	Node string `path:"node" doc:"The node's name" example:"rack1-a"`
}

type drainAnswer struct{ Body wire.DrainState }

func (g *Gateway) getDrain(ctx context.Context, in *nodeInput) (*drainAnswer, error) {
	order, err := g.orders.of(ctx, in.Node)
	return g.drainState(in.Node, order, err)
}

func (g *Gateway) drainNode(ctx context.Context, in *nodeInput) (*drainAnswer, error) {
	order, err := g.orders.change(ctx, in.Node, func(old wire.NodeOrder, revision uint64) (wire.NodeOrder, error) {
		if old.Draining {
			return old, nil
		}
		next := wire.NodeOrder{Draining: true, At: time.Now().UTC()}
		data, err := json.Marshal(next)
		if err != nil {
			return next, err
		}
		if revision == 0 {
			_, err = g.orders.bucket.Create(ctx, in.Node, data)
		} else {
			_, err = g.orders.bucket.Update(ctx, in.Node, data, revision)
		}
		if err == nil {
			g.log.Info("node is to drain", telemetry.KeyNode, in.Node)
		}
		return next, err
	})
	return g.drainState(in.Node, order, err)
}

func (g *Gateway) undrainNode(ctx context.Context, in *nodeInput) (*drainAnswer, error) {
	order, err := g.orders.change(ctx, in.Node, func(_ wire.NodeOrder, revision uint64) (wire.NodeOrder, error) {
		if revision == 0 {
			return wire.NodeOrder{}, nil
		}
		err := g.orders.bucket.Delete(ctx, in.Node, revision)
		if err == nil {
			g.log.Info("node is not to drain any more", telemetry.KeyNode, in.Node)
		}
		return wire.NodeOrder{}, err
	})
	return g.drainState(in.Node, order, err)
}

// checkNode fails for a node that does not live.
func (g *Gateway) checkNode(name string) error {
	if _, lives := g.dispatcher.Node(wire.NodeID(name)); lives {
		return nil
	}
	var names []string
	for _, n := range g.dispatcher.Nodes() {
		names = append(names, string(n.Node))
	}
	hint := "`dayfly nodes` lists those that there are"
	if near := functions.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("do you mean %s?", near)
	}
	return wire.Errorf(wire.CodeNotFound, "there is no node %.80q; %s", name, hint)
}

// drainState says how far a node is; err is passed on.
func (g *Gateway) drainState(name string, order wire.NodeOrder, err error) (*drainAnswer, error) {
	if err != nil {
		return nil, newProblem(err)
	}
	id := wire.NodeID(name)
	n, lives := g.dispatcher.Node(id)
	d := drainOf(id, order, n, lives)
	if len(d.Kept) > 0 {
		countElsewhere(&d, g.dispatcher.Nodes())
	}
	return &drainAnswer{Body: d}, nil
}

// drainOf sums up what a node says that drains, or should, if it lives.
func drainOf(id wire.NodeID, order wire.NodeOrder, n dispatch.NodeView, lives bool) wire.DrainState {
	d := wire.DrainState{Node: id, Ordered: order.Draining, Since: order.At, Gone: !lives}
	if !lives {
		return d
	}
	d.Draining, d.Drained = n.Draining, n.Drained
	d.Instances = n.Reserved.Instances
	for _, ready := range n.Stems {
		d.Stems += ready
	}
	for _, v := range n.Versions {
		d.Busy += v.Busy
		if v.Kept > 0 {
			d.Kept = append(d.Kept, wire.KeptOnNode{Version: v.Version, Count: v.Kept})
		}
	}
	return d
}

// countElsewhere counts what stands in for what the node keeps.
func countElsewhere(d *wire.DrainState, nodes []dispatch.NodeView) {
	elsewhere := map[wire.VersionID]wire.KeptOnNode{}
	for _, n := range nodes {
		if n.Node == d.Node || n.Draining || n.Incompatible {
			continue
		}
		for _, v := range n.Versions {
			k := elsewhere[v.Version]
			k.Elsewhere += v.Kept
			k.Ready += min(v.Kept, v.Idle+v.Busy)
			elsewhere[v.Version] = k
		}
	}
	for i, k := range d.Kept {
		d.Kept[i].Elsewhere, d.Kept[i].Ready = elsewhere[k.Version].Elsewhere, elsewhere[k.Version].Ready
	}
}
