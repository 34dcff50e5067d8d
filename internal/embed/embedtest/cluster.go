package embedtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

// clusterSize is how many servers a [Cluster] has: the fewest of which one may be lost.
const clusterSize = 3

// Ports of a cluster's servers, each on an address of its own.
const clientPort, routePort = "4222", "6222"

// Cluster is three NATS servers that keep everything three times, each of which can be
// stopped and started. It is safe for concurrent use.
type Cluster struct {
	tb    testing.TB
	dirs  [clusterSize]string
	hosts [clusterSize]string

	start func(natsserver.Config) (member, error)

	mu      sync.Mutex
	servers [clusterSize]member // nil while one is stopped
}

// member is a server of a cluster. It is safe for concurrent use, and one that has ended
// is neither settled nor leads.
type member interface {
	Settled() bool
	Leads(stream string) bool
	Stop()
}

// NATSCluster starts a cluster, which ends with the test.
func NATSCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return startCluster(tb, func(cfg natsserver.Config) (member, error) {
		s, err := natsserver.Start(cfg, Discard())
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

func startCluster(tb testing.TB, start func(natsserver.Config) (member, error)) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, start: start}
	for i := range clusterSize {
		c.dirs[i] = tb.TempDir()
		// All of 127.0.0.0/8 is this machine. On an address that nobody else uses, a port
		// is free also after its server was stopped.
		c.hosts[i] = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	tb.Cleanup(func() {
		for i := range clusterSize {
			c.StopServer(i)
		}
	})
	var starting sync.WaitGroup
	for i := range clusterSize {
		starting.Go(func() { c.StartServer(i) })
	}
	starting.Wait()
	c.AwaitSettled(tb)
	return c
}

// StartServer starts a server that is stopped.
func (c *Cluster) StartServer(i int) {
	c.tb.Helper()
	place := &natsserver.Cluster{Name: fmt.Sprintf("server-%d", i), Listen: c.hosts[i] + ":" + routePort}
	for j, host := range c.hosts {
		if j != i {
			place.Peers = append(place.Peers, host+":"+routePort)
		}
	}
	s, err := c.start(natsserver.Config{Dir: c.dirs[i], Listen: c.hosts[i] + ":" + clientPort, Cluster: place})
	if err != nil {
		c.tb.Error(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[i] = s
}

// StopServer stops a server, and returns when its files are closed. One that is stopped
// already stays so.
func (c *Cluster) StopServer(i int) {
	c.mu.Lock()
	s := c.servers[i]
	c.servers[i] = nil
	c.mu.Unlock()
	if s != nil {
		s.Stop()
	}
}

// RetireServer stops a server in order, see [natsserver.Server.Retire]. It must be one of
// this process.
func (c *Cluster) RetireServer(i int) {
	c.tb.Helper()
	c.mu.Lock()
	s, ok := c.servers[i].(*natsserver.Server)
	c.mu.Unlock()
	if !ok {
		c.tb.Errorf("server %d does not run in this process", i)
		return
	}
	s.Retire()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[i] = nil
}

// AwaitSettled waits until every server that runs is up to date.
func (c *Cluster) AwaitSettled(tb testing.TB) {
	tb.Helper()
	Eventually(tb, "the cluster is up to date", func() bool {
		for _, s := range c.running() {
			if s != nil && !s.Settled() {
				return false
			}
		}
		return true
	})
}

// Leader is the server that leads a stream, -1 for none.
func (c *Cluster) Leader(stream string) int {
	for i, s := range c.running() {
		if s != nil && s.Leads(stream) {
			return i
		}
	}
	return -1
}

func (c *Cluster) running() [clusterSize]member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers
}

// Servers is how many there are.
func (c *Cluster) Servers() int { return clusterSize }

// URL lists the servers for clients.
func (c *Cluster) URL() string {
	var urls []string
	for i := range c.hosts {
		urls = append(urls, c.ServerURL(i))
	}
	return strings.Join(urls, ",")
}

// ServerURL is one server for clients, which hear of the others from it.
func (c *Cluster) ServerURL(i int) string { return "nats://" + c.hosts[i] + ":" + clientPort }

// Connect opens a connection, which ends with the test, and over which all that is made
// is kept three times.
func (c *Cluster) Connect(tb testing.TB) *bus.Conn {
	tb.Helper()
	conn, err := bus.Connect(bus.Config{Name: tb.Name(), URL: c.URL(), Replicas: clusterSize}, Discard())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	return conn
}
