package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dayfly-run/dayfly/cmd/dayfly/cli"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// failureInterval is how often an engine is asked whether it has failed for good.
const failureInterval = 500 * time.Millisecond

// standalone is NATS or S3 as a process of its own.
type standalone interface {
	// Ready says why it cannot do its work just now.
	Ready(ctx context.Context) error
	// Failed says why it will not get well by itself; nil while it may.
	Failed() error
	// Stop ends it and waits for that.
	Stop()
}

// standaloneConfig is what the command line says to a [standalone].
type standaloneConfig struct {
	config // the flags that it shares with roles

	HTTP          string
	Name          string
	ClusterListen string
	Peers         []string
}

// standaloneRole is a command that runs a [standalone].
type standaloneRole struct {
	name, short, long string
	listen, http      string
	data              string
	flags             func(*standaloneConfig, *pflag.FlagSet)
	check             func(*standaloneConfig) error
	start             func(context.Context, *standaloneConfig, string, *slog.Logger) (standalone, error)
}

// standaloneCommands are the commands that run what the roles need beside them.
func standaloneCommands() []*cobra.Command {
	roles := []standaloneRole{
		{
			name: "nats", short: "Run a NATS server, alone or as one of a cluster", listen: "127.0.0.1:4222", http: "127.0.0.1:8085",
			long: "What it acknowledges is on disk. Three servers on three machines lose nothing with any one of them:\n\n" +
				"  dayfly nats --name n1 --listen 10.0.0.1:4222 --cluster-listen 10.0.0.1:6222 --peers 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222\n\n" +
				"It ends with an error when it can keep nothing any more, as on a full disk; have it started again.",
			data: "streams and buckets", flags: (*standaloneConfig).natsFlags, check: (*standaloneConfig).checkNATS, start: startNATS,
		},
		{
			name: "s3", short: "Run an S3 server with its objects in a folder", listen: "127.0.0.1:9000", http: "127.0.0.1:8086",
			long: "Objects are files, which are not synced to the disk one by one: a power cut may lose those of the last seconds.\n" +
				"Without keys it makes some at the first start, and keeps them in credentials.json in --data.\n" +
				"With --nats, bucket triggers are told of every change before its client is answered.",
			data: "objects", flags: (*standaloneConfig).s3Flags, check: (*standaloneConfig).checkS3, start: startS3,
		},
	}
	commands := make([]*cobra.Command, 0, len(roles))
	for _, r := range roles {
		commands = append(commands, r.command())
	}
	return commands
}

func (r standaloneRole) command() *cobra.Command {
	cfg := &standaloneConfig{}
	cmd := &cobra.Command{
		Use: r.name, Short: r.short, GroupID: cli.GroupPlatform, Args: cobra.NoArgs,
		Long: r.short + ".\n\n" + r.long + "\n\n" + environmentHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd); err != nil {
				return err
			}
			return r.run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", r.listen, "`address` for clients")
	f.StringVar(&cfg.HTTP, "http", r.http, "`address` of /healthz, /readyz and /metrics")
	cfg.logFlags(f)
	cfg.dataFlag(f, r.data)
	r.flags(cfg, f)
	return cmd
}

func (c *standaloneConfig) natsFlags(f *pflag.FlagSet) {
	f.StringVar(&c.Name, "name", "", "`name` of this server, unlike the others'; by default the machine's")
	f.StringVar(&c.ClusterListen, "cluster-listen", "", "`address` for the other servers of the cluster; empty for a server by itself")
	f.StringSliceVar(&c.Peers, "peers", nil, "`addresses` of the cluster's servers, separated by commas; this one's may be among them")
}

func (c *standaloneConfig) s3Flags(f *pflag.FlagSet) {
	f.StringVar(&c.S3AccessKey, "s3-access-key", "", "access `key` that clients must have")
	f.StringVar(&c.S3SecretKey, "s3-secret-key", "", "its secret `key`; better given as DAYFLY_S3_SECRET_KEY")
	f.StringVar(&c.S3Bucket, "s3-bucket", "dayfly", "the roles' own `bucket`, which has no triggers")
	f.StringVar(&c.NATS, "nats", "", "`URL` of NATS servers, separated by commas, to tell bucket triggers; empty for none")
	f.StringVar(&c.NATSCredentials, "nats-credentials", "", "NATS credentials `file`")
}

func (c *standaloneConfig) checkNATS() error {
	if c.Name == "" {
		host, err := hostName(maxName)
		if err != nil {
			return errors.Join(err, errors.New("name this server with --name"))
		}
		c.Name = host
	}
	switch {
	case !wire.ValidName(c.Name):
		return wire.Errorf(wire.CodeInvalid, "--name %q is not valid: use lower-case letters, digits and inner hyphens, at most 63", c.Name)
	case c.ClusterListen == "" && len(c.Peers) > 0:
		return wire.Errorf(wire.CodeInvalid, "--peers needs --cluster-listen, the address at which they reach this server")
	case c.ClusterListen != "" && len(c.Peers) == 0:
		return wire.Errorf(wire.CodeInvalid, "--cluster-listen needs --peers, the addresses of the cluster's servers")
	}
	return nil
}

func (c *standaloneConfig) checkS3() error {
	if (c.S3AccessKey == "") != (c.S3SecretKey == "") {
		return wire.Errorf(wire.CodeInvalid, "--s3-access-key and --s3-secret-key belong together: give both or none")
	}
	return nil
}

func startNATS(_ context.Context, cfg *standaloneConfig, dir string, log *slog.Logger) (standalone, error) {
	c := natsserver.Config{Dir: filepath.Join(dir, "nats"), Listen: cfg.Listen}
	if cfg.ClusterListen != "" {
		c.Cluster = &natsserver.Cluster{Name: cfg.Name, Listen: cfg.ClusterListen, Peers: cfg.Peers}
	}
	s, err := natsserver.Start(c, log)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return retiringNATS{s}, nil
}

// retiringNATS is a NATS server that leaves its cluster in order when it is stopped.
type retiringNATS struct{ *natsserver.Server }

// Stop implements [standalone].
func (s retiringNATS) Stop() { s.Retire() }

// toldS3 is an S3 server and the connection over which it tells bucket triggers.
type toldS3 struct {
	*s3server.Server
	conn *bus.Conn // nil without NATS
}

func startS3(ctx context.Context, cfg *standaloneConfig, dir string, log *slog.Logger) (_ standalone, err error) {
	c := s3server.Config{Dir: filepath.Join(dir, "s3"), Listen: cfg.Listen, AccessKey: cfg.S3AccessKey, SecretKey: cfg.S3SecretKey}
	s := toldS3{}
	if cfg.NATS != "" {
		s.conn, err = bus.Connect(bus.Config{URL: cfg.NATS, Credentials: cfg.NATSCredentials, Name: "dayfly s3"}, log)
		if err != nil {
			return nil, fmt.Errorf("%w; check --nats", err)
		}
		c.Notify = sources.Watch(s.conn, cfg.S3Bucket)
	}
	if s.Server, err = s3server.Start(ctx, c, log); err != nil {
		s.disconnect()
		return nil, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return s, nil
}

// Ready implements [standalone].
func (s toldS3) Ready(ctx context.Context) error {
	if s.conn != nil {
		if err := s.conn.Healthy(); err != nil {
			return fmt.Errorf("bucket triggers cannot be told: %w", err)
		}
	}
	return s.Server.Ready(ctx)
}

// Stop implements [standalone].
func (s toldS3) Stop() {
	s.Server.Stop()
	s.disconnect()
}

func (s toldS3) disconnect() {
	if s.conn != nil {
		s.conn.Close()
	}
}

// run runs the engine until ctx is done or it has failed for good.
func (r standaloneRole) run(ctx context.Context, cfg *standaloneConfig) (err error) {
	log, err := cfg.logger()
	if err != nil {
		return err
	}
	log = log.With(telemetry.KeyRole, r.name)
	if err := errors.Join(r.check(cfg), cfg.anchor()); err != nil {
		return err
	}
	data, err := openData(cfg.Data)
	if err != nil {
		return err
	}
	defer data.close()
	engine, err := r.start(ctx, cfg, data.path, log)
	if err != nil {
		return ignoreInterrupt(ctx, err)
	}
	defer engine.Stop()
	ops := httpapi.NewServer(cfg.HTTP, httpapi.OpsHandler(func(ctx context.Context) error {
		return errors.Join(engine.Failed(), engine.Ready(ctx))
	}, telemetry.NewRegistry()), log)
	if err := ops.Start(ctx); err != nil {
		return wire.Errorf(wire.CodeInvalid, "%s", strings.ReplaceAll(err.Error(), "--listen", "--http"))
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), opsStopBound)
		defer cancel()
		err = errors.Join(err, ops.Stop(stop))
	}()
	log.Info(r.name+" is up", "listen", cfg.Listen, "health", "http://"+ops.Addr(), "build", version)
	return awaitFailure(ctx, engine.Failed)
}

// opsStopBound is how long requests for health may take to end.
const opsStopBound = 2 * time.Second

// awaitFailure returns nil when ctx is done, and before that what an engine failed of.
func awaitFailure(ctx context.Context, failed func() error) error {
	tick := time.NewTicker(failureInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := failed(); err != nil {
				return err
			}
		}
	}
}
