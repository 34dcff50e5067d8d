// Package lifecycle starts and stops what is long-lived, in order.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Service is something long-lived.
type Service interface {
	// Start begins the work and returns when it is under way, or fails fast and
	// leaves nothing running. It does not block, and ctx bounds only the start.
	Start(ctx context.Context) error
	// Stop takes nothing new, lets what is under way end until ctx is done, ends
	// the rest, and returns when all is ended. It may be called again.
	Stop(ctx context.Context) error
}

// Group starts services in the order they were added and stops them in reverse.
// It is not safe for concurrent use.
type Group struct {
	Log     *slog.Logger
	members []member
	running int
}

type member struct {
	name    string
	service Service
}

// Add appends a service.
func (g *Group) Add(name string, s Service) { g.members = append(g.members, member{name, s}) }

// undoBound limits stopping what runs after a failed start.
const undoBound = 30 * time.Second

// Start starts all services. When one fails, those before it are stopped.
func (g *Group) Start(ctx context.Context) error {
	for _, m := range g.members[g.running:] {
		begun := time.Now()
		if err := m.service.Start(ctx); err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
			defer cancel()
			return errors.Join(fmt.Errorf("start %s: %w", m.name, err), g.Stop(undo))
		}
		g.running++
		g.Log.Debug("started", "service", m.name, "took", time.Since(begun))
	}
	return nil
}

// Stop stops what runs, last first, and returns all errors.
func (g *Group) Stop(ctx context.Context) error {
	var errs []error
	for ; g.running > 0; g.running-- {
		m := g.members[g.running-1]
		if err := m.service.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", m.name, err))
		}
		g.Log.Debug("stopped", "service", m.name)
	}
	return errors.Join(errs...)
}

// Func makes a [Service] of two functions; a nil one does nothing.
type Func struct {
	OnStart, OnStop func(ctx context.Context) error
}

// Start calls OnStart.
func (f Func) Start(ctx context.Context) error { return call(ctx, f.OnStart) }

// Stop calls OnStop.
func (f Func) Stop(ctx context.Context) error { return call(ctx, f.OnStop) }

func call(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	return f(ctx)
}
