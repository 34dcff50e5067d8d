package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/wire"
)

// probeTimeout bounds each question about health.
const probeTimeout = time.Second

// probe asks whether a part of the platform is there.
type probe struct {
	name string
	needed
	ask func(context.Context) error
}

// needed says when a gateway needs a part to be ready.
type needed int

const (
	always needed = iota
	// atFirst: warm calls are answered without it, and once there are any it is not needed.
	// All gateways miss it at once, so that a balancer which sends to none of them would
	// only make it worse.
	atFirst
	never // calls are answered without it
)

func (g *Gateway) probes() []probe {
	return []probe{
		{"NATS", always, func(context.Context) error { return g.deps.Conn.Healthy() }},
		{"S3", atFirst, g.deps.Store.Healthy},
		{"nodes", always, g.nodesReady},
		{"scheduler", atFirst, g.schedulerReady},
		{"builder", never, g.builderReady},
	}
}

// Ready returns nil when a call would be answered: NATS and S3 are there, a
// scheduler leads and a node lives. S3 and the scheduler may be away once it was so, or
// when a node has an instance: warm calls go on.
func (g *Gateway) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	began := g.wasReady.Load() || g.warm()
	for _, p := range g.probes() {
		if p.needed == never || p.needed == atFirst && began {
			continue
		}
		if err := p.ask(ctx); err != nil {
			return err
		}
	}
	g.wasReady.Store(true)
	return nil
}

func (g *Gateway) nodesReady(context.Context) error {
	lives := false
	if g.dispatcher.AnyNode(func(n dispatch.NodeView) bool {
		lives = true
		return !n.Draining && !n.Incompatible
	}) {
		return nil
	}
	if lives {
		return errors.New("no node takes invocations: those that there are drain, or are incompatible with this gateway; see `dayfly nodes`")
	}
	return errors.New("no node takes invocations; start an invoker")
}

// warm says whether a node has an instance, so that there are calls that can be answered.
func (g *Gateway) warm() bool {
	return g.dispatcher.AnyNode(func(n dispatch.NodeView) bool {
		return !n.Incompatible && slices.ContainsFunc(n.Versions, func(v wire.VersionOnNode) bool { return v.Slots > 0 })
	})
}

func (g *Gateway) schedulerReady(ctx context.Context) error {
	// Any answer, even to a question that asks nothing, says that one leads.
	if _, err := g.deps.Conn.Request(ctx, wire.PlaceSubject, []byte("{}")); err != nil {
		return fmt.Errorf("no scheduler answers: %w", err)
	}
	return nil
}

func (g *Gateway) builderReady(ctx context.Context) error {
	// As of a scheduler. One that is busy need not answer in time.
	_, err := g.deps.Conn.Request(ctx, wire.RebuildSubject, []byte("{}"))
	if errors.Is(err, bus.ErrNoResponders) {
		return errors.New("no builder is connected: nothing can be deployed; start one with `dayfly builder`")
	}
	return nil
}

// health is what a gateway finds when it looks around.
type health struct {
	Body struct {
		Build  string       `json:"build" doc:"Version of the gateway"`
		Now    time.Time    `json:"now" doc:"The gateway's clock"`
		Checks []partHealth `json:"checks"`
	}
}

type partHealth struct {
	Name    string `json:"name"`
	Problem string `json:"problem,omitempty" doc:"What is wrong, and what to do; empty when nothing is"`
}

func (g *Gateway) routeHealth(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/health", "getHealth", "Which parts of the platform are there"), g.getHealth)
}

func (g *Gateway) getHealth(ctx context.Context, _ *struct{}) (*health, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	probes := g.probes()
	out := &health{}
	out.Body.Build, out.Body.Checks = g.deps.Build, make([]partHealth, len(probes))
	var asking sync.WaitGroup
	for i, p := range probes {
		asking.Go(func() {
			out.Body.Checks[i] = partHealth{Name: p.name}
			if err := p.ask(ctx); err != nil {
				out.Body.Checks[i].Problem = err.Error()
			}
		})
	}
	asking.Wait()
	out.Body.Now = time.Now().UTC()
	return out, nil
}
