// Package natsserver runs a NATS server with JetStream inside this process.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// readyBound is how long a start may take: a large store is read first.
const readyBound = 30 * time.Second

const (
	// pingEvery and maxPings are how clients and other servers are found out that neither
	// answer nor close their connection. It takes three intervals at most.
	pingEvery, maxPings = time.Second, 2
	// writeBound is how long one may take to read what it is sent before its connection is
	// closed.
	writeBound = 5 * time.Second
	// retireOver is the time over which the clients of a server that retires are sent away,
	// retirePause how long they are left alone before that.
	retireOver, retirePause = 2 * time.Second, 200 * time.Millisecond
)

// Config describes the embedded server.
type Config struct {
	// Dir holds the streams.
	Dir string
	// Listen is a TCP address for clients outside this process; empty for none.
	Listen string
	// Cluster makes the server one of several; nil for one by itself.
	Cluster *Cluster
}

// Cluster is a server's place among others, which keep its streams as well.
type Cluster struct {
	// Name is the server's own, unlike the others'.
	Name string
	// Listen is the TCP address, with a port, at which the others reach it.
	Listen string
	// Peers are the addresses of the others.
	Peers []string
}

// Server is a running NATS server. Every acknowledged write of its durable
// streams is on disk (fsync) before the acknowledgement.
type Server struct {
	ns  *server.Server
	log *logger
	dir string
}

// Start runs a server and returns when it takes connections.
func Start(cfg Config, log *slog.Logger) (*Server, error) {
	opts := &server.Options{
		ServerName: "dayfly-embedded",
		JetStream:  true,
		StoreDir:   filepath.Clean(cfg.Dir),
		SyncAlways: true,
		DontListen: cfg.Listen == "",
		NoSigs:     true,
		// The server's own defaults find a silent client after six minutes.
		PingInterval: pingEvery, MaxPingsOut: maxPings, WriteDeadline: writeBound,
		LameDuckDuration: retireOver, LameDuckGracePeriod: retirePause,
		// The server's own default is 75 % of the memory and of the disk, which
		// fails streams on a small disk before it is full.
		JetStreamMaxMemory: 256 << 20,
		JetStreamMaxStore:  1 << 40,
	}
	if cfg.Listen != "" {
		host, port, err := net.SplitHostPort(cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("NATS listen address %q: %w", cfg.Listen, err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("NATS listen address %q: port is no number", cfg.Listen)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	if cfg.Cluster != nil {
		if err := cfg.Cluster.apply(opts); err != nil {
			return nil, err
		}
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	l := &logger{log: log}
	ns.SetLoggerV2(l, false, false, false)
	ns.Start()
	if err := awaitReady(ns, l); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS with its data in %s did not start: %w", opts.StoreDir, err)
	}
	return &Server{ns: ns, log: l, dir: opts.StoreDir}, nil
}

// apply makes options those of a server in a cluster.
func (c *Cluster) apply(opts *server.Options) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("NATS cluster address %q: %w", c.Listen, err)
	}
	opts.ServerName = c.Name
	opts.Cluster = server.ClusterOpts{
		Name: "dayfly", Host: host, PingInterval: pingEvery, MaxPingsOut: maxPings, WriteDeadline: writeBound,
	}
	if opts.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("NATS cluster address %q: port is no number", c.Listen)
	}
	if opts.Cluster.Port == 0 { // which would be a server by itself
		return fmt.Errorf("NATS cluster address %q: name a port", c.Listen)
	}
	for _, peer := range c.Peers {
		if _, _, err := net.SplitHostPort(peer); err != nil {
			return fmt.Errorf("NATS peer %q: %w", peer, err)
		}
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: peer})
	}
	return nil
}

// awaitReady waits until the server takes connections. What it cannot start with is
// only in its log, where it would stay unseen for the whole wait.
func awaitReady(ns *server.Server, l *logger) error {
	for begun := time.Now(); !ns.ReadyForConnections(100 * time.Millisecond); {
		if text := l.lastFatal(); text != "" {
			return errors.New(text)
		}
		if time.Since(begun) > readyBound {
			return fmt.Errorf("it takes no connections after %s", readyBound)
		}
	}
	return nil
}

// InProcessConn connects a NATS client of this process without a socket.
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns.InProcessConn() }

// URL is where other processes connect; empty without a listen address.
func (s *Server) URL() string {
	if a, ok := s.ns.Addr().(*net.TCPAddr); ok {
		return "nats://" + a.String()
	}
	return ""
}

// Name is the server's in its cluster.
func (s *Server) Name() string { return s.ns.Name() }

// Settled reports whether the server is up to date with its cluster, which has a leader,
// and with the streams that it keeps.
func (s *Server) Settled() bool {
	return s.ns.NumRoutes() > 0 && s.ns.JetStreamIsCurrent() && s.ns.Healthz(nil).Status == "ok"
}

// Ready says why the server cannot do its work just now, as before its cluster has a
// leader or while it catches up.
func (s *Server) Ready(context.Context) error {
	if health := s.ns.Healthz(nil); health.Status != "ok" {
		return fmt.Errorf("NATS: %s", health.Error)
	}
	return nil
}

// Failed says why the server will not get well by itself, nil while it may: when a write
// has failed, as on a full disk, it takes no more, also when there is room again.
func (s *Server) Failed() error {
	text := s.log.failedWrite()
	switch {
	case text != "":
		return fmt.Errorf("NATS cannot keep its data in %s: %s; make room there and start it again", s.dir, text)
	case !s.ns.Running():
		return errors.New("NATS has ended")
	case !s.ns.JetStreamEnabled():
		return fmt.Errorf("NATS has switched off JetStream, which keeps its data in %s; what it logged says why; start it again", s.dir)
	}
	return nil
}

// Leads reports whether the server is the one that leads a stream.
func (s *Server) Leads(stream string) bool {
	return s.ns.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
}

// Retire is [Server.Stop] for a server with others beside it, which goes on purpose: it
// hands over what it leads, so that nobody has to find out that it is gone, and sends its
// clients away one after the other. It takes some three seconds.
func (s *Server) Retire() {
	if s.ns.NumRoutes() > 0 {
		s.ns.LameDuckShutdown()
	}
	s.Stop()
}

// Stop ends the server at once, and waits until its files are closed.
func (s *Server) Stop() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
