package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Ports are the same on every host.
const (
	natsPort        uint16 = 4222
	natsClusterPort uint16 = 6222
	s3Port          uint16 = 9000
	healthPort      uint16 = 8080
)

const (
	// startBound limits a start.
	startBound = 2 * time.Minute
	pollEvery  = 20 * time.Millisecond

	servers, gateways, schedulers, workers, invokers = 3, 2, 2, 2, 3
	// What the disks of NATS servers, S3 and invokers hold, in megabytes.
	natsDisk, s3Disk, nodeDisk = 96, 128, 192
)

// Cluster is a running Dayfly on a network of its own.
type Cluster struct {
	NATS, Gateways, Schedulers, Workers, Invokers []*Process
	S3                                            *Process
	// Client is a host without a role: where callers are.
	Client *Host
	// HTTP is a client that is there.
	HTTP *http.Client

	cfg      Config
	dir      string
	mark     string // begins the names of all nodes
	secret   string
	lan      *lan
	starter  *starter
	all      []*Process
	deployer *deployer
}

// Config describes a cluster.
type Config struct {
	Programs
	// Idle is how long an instance may wait for its next call.
	Idle time.Duration
}

// Start starts a cluster and returns when all of it is ready. Whatever comes of it, the
// cluster must be closed; it is nil when there is nothing to close.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root, as Dayfly itself does")
	}
	if err := sweep(os.TempDir(), cgroupRoot); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, mark: markOf(os.Getpid()), secret: rand.Text()}
	if c.dir, err = os.MkdirTemp("", folderOf(os.Getpid())); err != nil {
		return c, err
	}
	if err := os.Chmod(c.dir, 0o711); err != nil { //nolint:gosec // functions are other users
		return c, err
	}
	if c.starter, err = newStarter(); err != nil {
		return c, err
	}
	if c.lan, err = newLAN(); err != nil {
		return c, err
	}
	if c.Client, err = c.lan.host("client"); err != nil {
		return c, err
	}
	c.HTTP = &http.Client{Transport: &http.Transport{DialContext: c.Client.DialContext, MaxIdleConnsPerHost: 64}}
	if err := c.plan(); err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	engines := append(slices.Clone(c.NATS), c.S3)
	for _, p := range engines {
		p.supervise()
	}
	if err := awaitReady(ctx, engines); err != nil {
		return c, err
	}
	if c.deployer, err = c.newDeployer(ctx); err != nil {
		return c, err
	}
	for _, p := range c.all {
		if p.over == nil {
			p.supervise()
		}
	}
	return c, c.AwaitReady(ctx)
}

// plan makes all hosts and processes, and starts none.
func (c *Cluster) plan() error {
	var errs []error
	add := func(role, name string, disk int, flags func(h *Host, data string) []string) *Process {
		p, err := c.process(role, name, disk, flags)
		errs = append(errs, err)
		return p
	}
	names := make([]string, servers)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i+1)
	}
	// The servers name each other, so their addresses are known before they are made.
	peers := make([]string, servers)
	urls := make([]string, servers)
	for i := range names {
		at := &Host{IP: c.lan.address(i)}
		peers[i], urls[i] = at.At(natsClusterPort), "nats://"+at.At(natsPort)
	}
	for _, name := range names {
		c.NATS = append(c.NATS, add(natsRole, name, natsDisk, func(h *Host, data string) []string {
			return []string{"--name", name, "--listen", h.At(natsPort), "--cluster-listen", h.At(natsClusterPort),
				"--peers", strings.Join(peers, ","), "--http", h.At(healthPort), "--data", data}
		}))
	}
	c.S3 = add("s3", "s3", s3Disk, func(h *Host, data string) []string {
		return []string{"--listen", h.At(s3Port), "--http", h.At(healthPort), "--data", data}
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	outside := []string{
		"--nats", strings.Join(urls, ","), "--replicas", strconv.Itoa(servers), "--drain", "5s",
	}
	plain := func(h *Host, _ string) []string { return append([]string{"--listen", h.At(healthPort)}, outside...) }
	telling := func(h *Host, data string) []string {
		return append([]string{"--log-level", "debug"}, plain(h, data)...)
	}
	for _, of := range []struct {
		role, name string
		count      int
		list       *[]*Process
		flags      func(*Host, string) []string
	}{
		{"scheduler", "sc", schedulers, &c.Schedulers, telling}, // what it decides
		{"events", "e", workers, &c.Workers, plain}, {"gateway", "g", gateways, &c.Gateways, plain},
	} {
		for i := range of.count {
			*of.list = append(*of.list, add(of.role, of.name+strconv.Itoa(i+1), 0, of.flags))
		}
	}
	for i := range invokers {
		name := invokerName(i)
		c.Invokers = append(c.Invokers, add("invoker", name, nodeDisk, func(h *Host, data string) []string {
			return append([]string{
				"--listen", h.At(healthPort), "--data", data, "--node", string(nodeOf(c.mark, name)),
				"--sandbox", "oci", "--stems", "0", "--memory", "2048", "--cpu", "16000", "--idle", c.cfg.Idle.String(),
			}, outside...)
		}))
	}
	return errors.Join(errs...)
}

// process makes a host and what runs there.
func (c *Cluster) process(role, name string, megabytes int, flags func(h *Host, data string) []string) (*Process, error) {
	h, err := c.lan.host(name)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, Role: role, Host: h, Log: &Log{}, health: healthPort, starter: c.starter}
	p.client = &http.Client{Transport: &http.Transport{DialContext: c.Client.DialContext, DisableKeepAlives: true}}
	c.all = append(c.all, p)
	data := filepath.Join(c.dir, name)
	if megabytes > 0 {
		if p.disk, err = c.starter.disk(data, megabytes); err != nil {
			return p, err
		}
	}
	p.args = append([]string{c.cfg.Dayfly, role, "--log-format", "json"}, flags(h, filepath.Join(data, "data"))...)
	p.env = []string{"DAYFLY_S3_ACCESS_KEY=" + accessKey, "DAYFLY_S3_SECRET_KEY=" + c.secret}
	if c.S3 != nil {
		p.env = append(p.env, "DAYFLY_S3_ENDPOINT=http://"+c.S3.Host.At(s3Port))
	}
	return p, nil
}

const (
	accessKey = "dayfly"
	natsRole  = "nats"
)

// Processes are all of them.
func (c *Cluster) Processes() []*Process { return slices.Clone(c.all) }

// Process is the one with a name, or nil.
func (c *Cluster) Process(name string) *Process {
	if i := slices.IndexFunc(c.all, func(p *Process) bool { return p.Name == name }); i >= 0 {
		return c.all[i]
	}
	return nil
}

// URL is that of a gateway.
func (c *Cluster) URL(gateway *Process) string { return "http://" + gateway.Host.At(healthPort) }

// Node is the name of an invoker's node.
func (c *Cluster) Node(invoker *Process) wire.NodeID { return nodeOf(c.mark, invoker.Name) }

// AwaitReady returns when all processes are ready.
func (c *Cluster) AwaitReady(ctx context.Context) error { return awaitReady(ctx, c.all) }

func awaitReady(ctx context.Context, all []*Process) error {
	return Poll(ctx, func() error {
		errs := make([]error, len(all))
		var group sync.WaitGroup
		for i, p := range all {
			// The last question is not cut off, so that its answer is what is told.
			group.Go(func() { errs[i] = p.Ready(context.WithoutCancel(ctx)) })
		}
		group.Wait()
		return errors.Join(errs...)
	})
}

// Poll calls ok until it returns nil, or until ctx is done, with its last error then.
func Poll(ctx context.Context, ok func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// Close stops all processes and takes everything away. It fails when a process did not
// end well, or left a function running.
func (c *Cluster) Close() error {
	var errs []error
	if c.deployer != nil {
		c.deployer.close()
	}
	// Those that others need stop last.
	for _, stage := range [][]*Process{slices.Concat(c.Gateways, c.Workers), slices.Concat(c.Invokers, c.Schedulers), append(slices.Clone(c.NATS), c.S3)} {
		results := make([]error, len(stage))
		var group sync.WaitGroup
		for i, p := range stage {
			if p != nil && p.over != nil {
				group.Go(func() { results[i] = errors.Join(p.stop(), p.Sane(time.Time{})) })
			}
		}
		group.Wait()
		errs = append(errs, results...)
	}
	if c.HTTP != nil {
		c.HTTP.CloseIdleConnections()
	}
	left, err := c.Instances()
	errs = append(errs, err)
	for _, in := range left {
		errs = append(errs, fmt.Errorf("left behind: %s", in))
	}
	if c.lan != nil {
		errs = append(errs, c.lan.close())
	}
	if c.starter != nil {
		c.starter.close()
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}
