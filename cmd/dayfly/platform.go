package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/events"
	"github.com/dayfly-run/dayfly/events/triggers"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/gateway"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/lifecycle"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	groupPlatform = "platform"

	// startBound limits a start; the first one prepares the runtimes.
	startBound = 30 * time.Minute
	// maxStems bounds the stems of one kind, stemShare their part of the memory that
	// functions may take, which they get beyond it; stemStarts the containers that are
	// started at once.
	maxStems, stemShare, stemStarts = 8, 16, 4
	// buildBound limits one build.
	buildBound = 5 * time.Minute
)

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
			flags: []func(*config, *pflag.FlagSet){(*config).embeddedFlags, (*config).sandboxFlags, (*config).invokerFlags, (*config).builderFlags, (*config).eventFlags},
			parts: []func(*process) error{(*process).addScheduler, (*process).addInvoker, (*process).addBuilder, (*process).addEvents, (*process).addGateway},
		},
		{
			name: "gateway", short: "Run a gateway: HTTP in, events out", listen: "127.0.0.1:8080",
			flags: []func(*config, *pflag.FlagSet){(*config).eventFlags},
			parts: []func(*process) error{(*process).addGateway},
		},
		{
			name: "events", short: "Run an events worker: what was accepted is run, any number share it", listen: "127.0.0.1:8084",
			flags: []func(*config, *pflag.FlagSet){(*config).eventFlags},
			parts: []func(*process) error{(*process).addEvents},
		},
		{
			name: "scheduler", short: "Run a scheduler; of any number one leads", listen: "127.0.0.1:8081",
			parts: []func(*process) error{(*process).addScheduler},
		},
		{
			name: "invoker", short: "Run this machine's invoker", listen: "127.0.0.1:8082", data: "caches and sockets, all of which may vanish",
			flags: []func(*config, *pflag.FlagSet){(*config).sandboxFlags, (*config).invokerFlags},
			parts: []func(*process) error{(*process).addInvoker},
		},
		{
			name: "builder", short: "Run a builder: bundles in, artifacts out", listen: "127.0.0.1:8083", data: "caches, all of which may vanish",
			flags: []func(*config, *pflag.FlagSet){(*config).sandboxFlags, (*config).builderFlags},
			parts: []func(*process) error{(*process).addBuilder},
		},
	}
	commands := make([]*cobra.Command, 0, len(roles))
	for _, r := range roles {
		commands = append(commands, r.command())
	}
	return commands
}

func (r role) command() *cobra.Command {
	cfg := &config{}
	cmd := &cobra.Command{
		Use: r.name, Short: r.short, GroupID: groupPlatform, Args: cobra.NoArgs,
		Long: r.short + ".\n\nEvery flag can also be given in the environment, as DAYFLY_ and its name in capitals\nwith _ for -, for example DAYFLY_LOG_LEVEL=debug. The command line wins.",
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
	log        *slog.Logger
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
	intake     *intake.Intake       // nil until a role needs it
	dispatcher *dispatch.Dispatcher // nil until a role needs it
	sources    *sources.Sources     // nil until a role needs it
	started    atomic.Bool
}

// run runs the role until ctx is done, and then stops it: no new call, then the
// calls under way, then what they need.
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
	log = log.With(telemetry.KeyRole, r.name)
	p := &process{cfg: cfg, log: log, metrics: telemetry.NewRegistry(), group: lifecycle.Group{Log: log}}
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
	if err := cfg.checkEvents(); err != nil {
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
	for _, add := range r.parts {
		if err := add(p); err != nil {
			return err
		}
	}
	server := httpapi.NewServer(cfg.Listen, p.handler(), log)
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
		<-ctx.Done()
		log.Info("stopping; a second signal ends at once")
	}
	return errors.Join(ignoreInterrupt(ctx, err), p.stop(server))
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
		if !p.started.Load() {
			return errors.New("still starting")
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

// accepting is the process's way to accept events.
func (p *process) accepting() *intake.Intake {
	if p.intake == nil {
		p.intake = intake.New(intake.Config{
			Retention: p.cfg.Retention, Window: p.cfg.IdempotencyWindow, QueueBytes: p.cfg.QueueMiB << 20,
		}, p.engines.conn, p.engines.store, p.log)
		p.group.Add("intake", p.intake)
	}
	return p.intake
}

// calls is the process's way to instances. There is one, so that all calls under way are
// seen in one place.
func (p *process) calls() *dispatch.Dispatcher {
	if p.dispatcher == nil {
		counts := dispatch.NewMetrics(p.metrics)
		p.dispatcher = dispatch.New(p.engines.conn, p.engines.store, counts, p.log)
		counts.Of(p.dispatcher)
		if p.node != nil {
			p.dispatcher.Attach(p.node.ID(), p.node)
		}
		p.group.Add("dispatcher", p.dispatcher)
	}
	return p.dispatcher
}

// triggered is what triggers listen to.
func (p *process) triggered() *sources.Sources {
	if p.sources == nil {
		cfg := sources.Config{OwnBucket: p.cfg.S3Bucket}
		if p.engines.s3 != nil { // an outside one is not ours to make buckets in
			cfg.EnsureBucket = p.engines.store.EnsureOther
		}
		p.sources = sources.New(cfg, p.engines.conn, p.log)
		p.group.Add("sources", lifecycle.Func{OnStart: p.sources.Open})
	}
	return p.sources
}

// functions is the registry in memory. The process has one, however many roles read
// it, so that there is one watcher.
func (p *process) functions() *registry.Cache {
	if p.cache == nil {
		p.cache = registry.NewCache(p.registry, p.log)
		p.group.Add("registry cache", p.cache)
	}
	return p.cache
}

func (p *process) addGateway() error {
	p.gateway = gateway.New(gateway.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Registry: p.registry, Cache: p.functions(),
		Intake: p.accepting(), Dispatcher: p.calls(), Sources: p.triggered(),
		Metrics: p.metrics, Log: p.log.With(telemetry.KeyRole, "gateway"), Build: version,
	})
	p.add("gateway", p.gateway, p.gateway.Ready)
	return nil
}

func (p *process) addEvents() error {
	log := p.log.With(telemetry.KeyRole, "events")
	t := triggers.New(triggers.Config{}, triggers.Deps{
		Conn: p.engines.conn, Intake: p.accepting(), Functions: p.functions(), Sources: p.triggered(), Log: log,
	})
	w := events.New(events.Config{}, events.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Intake: p.accepting(), Functions: p.functions(), Dispatcher: p.calls(),
		Metrics: p.metrics, Log: log,
	})
	p.add("events", w, w.Ready)
	p.group.Add("triggers", t)
	return nil
}

func (p *process) addScheduler() error {
	s := scheduler.New(scheduler.Config{}, scheduler.Deps{
		Conn: p.engines.conn, Functions: p.functions(), Metrics: p.metrics, Log: p.log.With(telemetry.KeyRole, "scheduler"),
	})
	p.add("scheduler", s, s.Ready)
	return nil
}

func (p *process) addInvoker() error {
	log := p.log.With(telemetry.KeyRole, "invoker")
	node, err := nodeID(p.cfg.Node, p.dir)
	if err != nil {
		return err
	}
	capacity, err := p.cfg.capacity()
	if err != nil {
		return err
	}
	containers, err := p.openSandbox("invoker/"+string(node), log)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	inv := invoker.New(invoker.Config{
		Node: node, DataDir: filepath.Join(p.dir, "node"), Capacity: capacity, IdleLimit: p.cfg.Idle,
		Program: program, Build: version,
		Stems: invoker.StemConfig{
			Floor: p.cfg.Stems, Ceiling: stemCeiling(p.cfg.Stems), BudgetBytes: capacity.MemoryBytes / stemShare,
			Starts: stemStarts, Network: functions.DefaultNetwork,
		},
	}, invoker.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Registry: p.registry, Sandbox: containers,
		Roots: rootSource{p.roots}, Metrics: p.metrics, Log: log,
	})
	p.add("invoker", inv, inv.Ready)
	p.node = inv
	return nil
}

// stemCeiling is the most stems of a kind that demand may call for: none when none are
// wanted.
func stemCeiling(floor int) int {
	if floor == 0 {
		return 0
	}
	return max(maxStems, floor)
}

func (p *process) addBuilder() error {
	log := p.log.With(telemetry.KeyRole, "builder")
	base, ok := runtimes.Lookup(functions.RuntimeProvided)
	if !ok {
		return fmt.Errorf("no runtime %s", functions.RuntimeProvided)
	}
	// The folder names the builder: what an earlier run in it left is its own.
	containers, err := p.openSandbox("builder/"+p.dir, log)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.dir, "builder")
	cores := int64(runtime.NumCPU()) * 1000
	jobs := jobRunner{
		sandbox: containers, dir: filepath.Join(dir, "work"), cores: cores,
		root: func(ctx context.Context) (sandbox.Root, error) { return rootSource{p.roots}.Current(ctx, base) },
	}
	images, err := p.openImages("builder/"+p.dir, containers, cores, log)
	if err != nil {
		return err
	}
	root, env := goToolchain(p.cfg.GoRoot)
	b := builder.New(builder.Config{
		DataDir: dir, GoRoot: root, GoEnv: env, Timeout: buildBound, MaxBuilds: p.cfg.Builds,
	}, builder.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Runner: jobs, Images: images, Roots: p.roots, Metrics: p.metrics, Log: log,
	})
	p.group.Add("build containers", lifecycle.Func{
		OnStart: func(ctx context.Context) error {
			if err := containers.Check(ctx); err != nil {
				return err
			}
			_, err := containers.Sweep(ctx)
			return err
		},
		// Also when the drain took all of the time.
		OnStop: func(ctx context.Context) error { return containers.Close(context.WithoutCancel(ctx)) },
	})
	p.add("builder", b, b.Ready)
	return nil
}

// goToolchain finds the Go toolchain that compiles functions, and the settings by
// which it reaches modules. Without one the builder refuses Go source.
func goToolchain(given string) (root string, env []string) {
	program := "go"
	if given != "" {
		program = filepath.Join(given, "bin", "go")
	}
	names := []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GONOPROXY"}
	out, err := exec.Command(program, append([]string{"env", "GOROOT"}, names...)...).Output()
	if err != nil {
		return given, nil
	}
	lines := strings.Split(string(out), "\n") // a setting that is not made is an empty line
	if len(lines) <= len(names) {
		return given, nil
	}
	for i, name := range names {
		if value := lines[i+1]; value != "" {
			env = append(env, name+"="+value)
		}
	}
	return lines[0], env
}
