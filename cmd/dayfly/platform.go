package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dayfly-run/dayfly/cmd/dayfly/cli"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/gateway"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/lifecycle"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// startBound limits a start; the first one prepares the runtimes.
	startBound = 30 * time.Minute
)

// environmentHelp ends the help of every command of the platform.
const environmentHelp = "Every flag can also be given in the environment, as DAYFLY_ and its name in capitals\nwith _ for -, for example DAYFLY_LOG_LEVEL=debug. The command line wins."

// role is a command that runs a part of the platform.
type role struct {
	name, short, listen string
	// data says what the role keeps on disk; empty for nothing.
	data  string
	flags []func(*config, *pflag.FlagSet)
	// parts are the roles that run, in the order in which they start.
	parts []func(*process) error
}

// platformCommands are the commands that run Dayfly.
func platformCommands() []*cobra.Command {
	roles := []role{
		{
			name: "up", short: "Run every role in one process, with an embedded NATS and S3", listen: "127.0.0.1:8080",
			data:  "the embedded NATS and S3, caches and sockets",
			flags: []func(*config, *pflag.FlagSet){(*config).s3Flags, (*config).embeddedFlags, (*config).sandboxFlags, (*config).invokerFlags, (*config).builderFlags, (*config).eventFlags, (*config).secretsFlags, (*config).garbageFlags, (*config).gatewayFlags},
			parts: []func(*process) error{(*process).addScheduler, (*process).addInvoker, (*process).addBuilder, (*process).addEvents, (*process).addGateway},
		},
		{
			name: "gateway", short: "Run a gateway: HTTP in, events out", listen: "127.0.0.1:8080",
			flags: []func(*config, *pflag.FlagSet){(*config).s3Flags, (*config).eventFlags, (*config).secretsFlags, (*config).gatewayFlags},
			parts: []func(*process) error{(*process).addGateway},
		},
		{
			name: "events", short: "Run an events worker: what was accepted is run, any number share it", listen: "127.0.0.1:8084",
			flags: []func(*config, *pflag.FlagSet){(*config).s3Flags, (*config).eventFlags, (*config).garbageFlags},
			parts: []func(*process) error{(*process).addEvents},
		},
		{
			name: "scheduler", short: "Run a scheduler; of any number one leads", listen: "127.0.0.1:8081",
			parts: []func(*process) error{(*process).addScheduler},
		},
		{
			name: "invoker", short: "Run this machine's invoker", listen: "127.0.0.1:8082", data: "caches and sockets, all of which may vanish",
			flags: []func(*config, *pflag.FlagSet){(*config).s3Flags, (*config).sandboxFlags, (*config).invokerFlags, (*config).secretsFlags},
			parts: []func(*process) error{(*process).addInvoker},
		},
		{
			name: "builder", short: "Run a builder: bundles in, artifacts out", listen: "127.0.0.1:8083", data: "caches, all of which may vanish",
			flags: []func(*config, *pflag.FlagSet){(*config).s3Flags, (*config).sandboxFlags, (*config).builderFlags},
			parts: []func(*process) error{(*process).addBuilder},
		},
	}
	commands := make([]*cobra.Command, 0, len(roles))
	for _, r := range roles {
		commands = append(commands, r.command())
	}
	return append(commands, standaloneCommands()...)
}

func (r role) command() *cobra.Command {
	cfg := &config{}
	cmd := &cobra.Command{
		Use: r.name, Short: r.short, GroupID: cli.GroupPlatform, Args: cobra.NoArgs,
		Long: r.short + ".\n\n" + environmentHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd); err != nil {
				return err
			}
			return r.run(cmd.Context(), cfg)
		},
	}
	cfg.commonFlags(cmd.Flags(), r.listen)
	if r.data != "" {
		cfg.dataFlag(cmd.Flags(), r.data)
	}
	for _, add := range r.flags {
		add(cfg, cmd.Flags())
	}
	return cmd
}

// process is one running dayfly: what its roles share, and the roles in order.
type process struct {
	cfg        *config
	log        *slog.Logger // of what all roles share
	bare       *slog.Logger // names no role
	dir        string
	engines    *engines
	registry   *registry.Registry
	cache      *registry.Cache // nil until a role needs it
	roots      *roots.Store    // nil without a data folder
	metrics    *prometheus.Registry
	group      lifecycle.Group
	ready      []func(context.Context) error
	gateway    *gateway.Gateway     // nil without one
	node       *invoker.Invoker     // nil unless this process has one
	scheduler  *scheduler.Scheduler // nil without one
	intake     *intake.Intake       // nil until a role needs it
	dispatcher *dispatch.Dispatcher // nil until a role needs it
	sources    *sources.Sources     // nil until a role needs it
	settings   *settings.Store      // nil until a role needs it
	started    atomic.Bool
	leaving    func() bool // set before anybody is served
}

// run runs the role until ctx is done, or NATS or S3 of this process has failed for good,
// and then stops it: no new call, then the calls under way, then what they need.
func (r role) run(ctx context.Context, cfg *config) (err error) {
	log, err := cfg.logger()
	if err != nil {
		return err
	}
	if r.name != "up" {
		if err := cfg.requireOutside(); err != nil {
			return err
		}
	}
	bare := log
	log = log.With(telemetry.KeyRole, r.name)
	p := &process{cfg: cfg, log: log, bare: bare, metrics: telemetry.NewRegistry(), group: lifecycle.Group{Log: log}}
	if r.data != "" {
		data, err := openData(cfg.Data)
		if err != nil {
			return err
		}
		defer data.close()
		p.dir = data.path
	}
	starting, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	if err := errors.Join(cfg.checkEvents(), cfg.checkReplicas(), cfg.anchor()); err != nil {
		return err
	}
	if p.engines, err = openEngines(starting, cfg, "dayfly "+r.name, p.dir, log); err != nil {
		return err
	}
	defer p.engines.close()
	if p.registry, err = registry.Open(starting, p.engines.conn); err != nil {
		return err
	}
	if p.dir != "" {
		if p.roots, err = roots.Open(starting, p.engines.conn, p.engines.store, filepath.Join(p.dir, "roots"), log); err != nil {
			return err
		}
	}
	p.group.Add("roster", roster.NewSelf(p.engines.conn, p.describe(r.name), log))
	for _, add := range r.parts {
		if err := add(p); err != nil {
			return err
		}
	}
	server := httpapi.NewServer(cfg.Listen, p.handler(), log)
	p.leaving = server.Leaving
	if p.gateway != nil {
		server.OnDrain, server.OnCut = p.gateway.Drain, p.gateway.Cut
	}
	if err := server.Start(starting); err != nil {
		return wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	err = p.group.Start(starting)
	if err == nil {
		p.started.Store(true)
		log.Info("dayfly is up", "url", "http://"+server.Addr(), "build", version)
		if err = awaitFailure(ctx, p.engines.failed); err == nil {
			log.Info("stopping; a second signal ends at once", "lameDuck", cfg.LameDuck)
			server.Leave(cfg.LameDuck)
		}
	}
	return errors.Join(ignoreInterrupt(ctx, err), p.stop(server))
}

// logOf is the logger of one role.
func (p *process) logOf(role string) *slog.Logger { return p.bare.With(telemetry.KeyRole, role) }

// describe returns what the process says of itself when it is asked.
func (p *process) describe(role string) func() wire.RoleState {
	state := wire.RoleState{Process: uuid.NewString(), Role: role, Build: version, Protocol: wire.Protocol, Since: time.Now()}
	state.Host, _ = os.Hostname() // without one it is known by its other names
	return func() wire.RoleState {
		now := state
		if p.node != nil {
			now.Node = p.node.ID()
		}
		now.Leads = p.scheduler != nil && p.scheduler.Leads()
		return now
	}
}

// ignoreInterrupt makes a start that a signal broke off no error.
func ignoreInterrupt(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

func (p *process) stop(server *httpapi.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	return errors.Join(server.Stop(ctx), p.group.Stop(ctx))
}

// handler serves the role's HTTP: health and metrics, and the gateway's routes.
func (p *process) handler() http.Handler {
	ops := httpapi.OpsHandler(func(ctx context.Context) error {
		switch {
		case !p.started.Load():
			return errors.New("still starting")
		case p.leaving():
			return errors.New("being stopped")
		}
		if err := p.engines.failed(); err != nil {
			return err
		}
		for _, ready := range p.ready {
			if err := ready(ctx); err != nil {
				return err
			}
		}
		return nil
	}, p.metrics)
	if p.gateway == nil {
		return ops
	}
	calls := p.gateway.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || r.URL.Path == "/metrics":
			ops.ServeHTTP(w, r)
		case !p.started.Load():
			httpapi.WriteProblem(w, wire.Errorf(wire.CodeUnavailable, "Dayfly is still starting"), "")
		default:
			calls.ServeHTTP(w, r)
		}
	})
}

func (p *process) add(name string, s lifecycle.Service, ready func(context.Context) error) {
	p.group.Add(name, s)
	p.ready = append(p.ready, ready)
}
