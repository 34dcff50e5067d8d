package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/events"
	"github.com/dayfly-run/dayfly/events/triggers"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/gateway"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/internal/lifecycle"
	"github.com/dayfly-run/dayfly/invoker"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxStems bounds the stems of one kind, stemShare their part of the memory that
	// functions may take, which they get beyond it; stemStarts the containers that are
	// started at once.
	maxStems, stemShare, stemStarts = 8, 16, 4
	// buildBound limits one build.
	buildBound = 5 * time.Minute
)

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

// secretsKeyName is the key file that `up` makes in its data folder, beside what it
// opens and not in it.
const secretsKeyName = "secrets.key"

// configured is what functions are configured with. Without a key file it has no secrets,
// and says so to who needs one.
func (p *process) configured() (_ *settings.Store, err error) {
	if p.settings != nil {
		return p.settings, nil
	}
	var ring *keyring.Ring
	switch {
	case p.cfg.SecretsKey != "":
		if ring, err = keyring.Load(p.cfg.SecretsKey); err != nil {
			return nil, wire.Errorf(wire.CodeInvalid, "--secrets-key: %s", err)
		}
	case p.cfg.NATS == "": // then the secrets are in this folder as well
		if ring, err = keyring.LoadOrCreate(filepath.Join(p.dir, secretsKeyName)); err != nil {
			return nil, err
		}
	}
	p.settings = settings.New(p.engines.conn, ring)
	p.group.Add("settings", lifecycle.Func{OnStart: p.settings.Open})
	return p.settings, nil
}

func (p *process) addGateway() error {
	configured, err := p.configured()
	if err != nil {
		return err
	}
	p.gateway = gateway.New(gateway.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Registry: p.registry, Settings: configured, Cache: p.functions(),
		Intake: p.accepting(), Dispatcher: p.calls(), Sources: p.triggered(),
		Metrics: p.metrics, Log: p.logOf("gateway"), Build: version,
	})
	p.add("gateway", p.gateway, p.gateway.Ready)
	return nil
}

func (p *process) addEvents() error {
	log := p.logOf("events")
	t := triggers.New(triggers.Config{}, triggers.Deps{
		Conn: p.engines.conn, Intake: p.accepting(), Functions: p.functions(), Sources: p.triggered(), Log: log,
	})
	w := events.New(events.Config{}, events.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Intake: p.accepting(), Functions: p.functions(), Dispatcher: p.calls(),
		Metrics: p.metrics, Log: log,
	})
	p.add("events", w, w.Ready)
	p.group.Add("triggers", t)
	return p.addGarbage(log)
}

func (p *process) addScheduler() error {
	s := scheduler.New(scheduler.Config{}, scheduler.Deps{
		Conn: p.engines.conn, Functions: p.functions(), Metrics: p.metrics, Log: p.logOf("scheduler"),
	})
	p.scheduler = s
	p.add("scheduler", s, s.Ready)
	return nil
}

func (p *process) addInvoker() error {
	log := p.logOf("invoker")
	node, err := nodeID(p.cfg.Node, p.dir)
	if err != nil {
		return err
	}
	capacity, err := p.cfg.capacity()
	if err != nil {
		return err
	}
	labels, err := p.cfg.labels()
	if err != nil {
		return err
	}
	containers, err := p.openSandbox("invoker/"+string(node), log)
	if err != nil {
		return err
	}
	configured, err := p.configured()
	if err != nil {
		return err
	}
	live := settings.NewLive(configured, log)
	p.group.Add("live settings", live)
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	inv := invoker.New(invoker.Config{
		Node: node, DataDir: filepath.Join(p.dir, "node"), Capacity: capacity, IdleLimit: p.cfg.Idle,
		Program: program, Build: version, Labels: labels,
		LostAfter: p.cfg.lostAfter(),
		Guard: guard.Config{
			Args: []string{guard.Command, p.cfg.LogLevel, p.cfg.LogFormat},
			NATS: p.cfg.NATS, Credentials: p.cfg.NATSCredentials,
		},
		Stems: invoker.StemConfig{
			Floor: p.cfg.Stems, Ceiling: stemCeiling(p.cfg.Stems), BudgetBytes: capacity.MemoryBytes / stemShare,
			Starts: stemStarts, Network: functions.DefaultNetwork,
		},
	}, invoker.Deps{
		Conn: p.engines.conn, Store: p.engines.store, Registry: p.registry, Settings: live, Sandbox: containers,
		Roots: rootSource{p.roots}, Metrics: p.metrics, Log: log,
	})
	p.add("invoker", inv, inv.Ready)
	p.node = inv
	return nil
}

// lostAfter is how long an invoker may be out of touch with the cluster: for ever when
// NATS is in the same process, which nothing can come between.
func (c *config) lostAfter() time.Duration {
	if c.NATS == "" {
		return 0
	}
	return wire.NodeLostAfter
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
	log := p.logOf("builder")
	// The folder names the builder: what an earlier run in it left is its own.
	containers, err := p.openSandbox("builder/"+p.dir, log)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.dir, "builder")
	cores := int64(runtime.NumCPU()) * 1000
	jobs := jobRunner{
		sandbox: containers, dir: filepath.Join(dir, "work"), cores: cores, root: rootSource{p.roots}.Current,
	}
	images, err := p.openImages("builder/"+p.dir, containers, cores, log)
	if err != nil {
		return err
	}
	root, env := goToolchain(p.cfg.GoRoot)
	b := builder.New(builder.Config{
		DataDir: dir, GoRoot: root, GoEnv: env, PipEnv: pipSettings(), NpmEnv: npmSettings(), NpmRegistry: npmRegistry,
		Timeout: buildBound, DiskBytes: buildDiskBytes, MaxBuilds: p.cfg.Builds,
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
