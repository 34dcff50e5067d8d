// Package cluster runs Dayfly for a benchmark: `dayfly up`, or its roles as
// processes of their own, over the same data.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/hello"
	"github.com/dayfly-run/dayfly/bench/internal/load"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
)

const (
	// startBound limits a start; the first one on a machine prepares the runtimes.
	startBound = 10 * time.Minute
	// removeBound limits removing what a process left.
	removeBound = time.Minute
	pollEvery   = 10 * time.Millisecond
	// growth is how many instances Grow starts at once.
	growth = 8
	// cpuMillis is what the node says it has, so that idle instances, which take
	// nothing, are no reason to refuse one.
	cpuMillis = 64_000
)

// Site is a folder that holds a cluster's data from one start to the next.
type Site struct {
	// Binary is dayfly.
	Binary string
	Dir    string
}

// Node is how the cluster's one node is to be.
type Node struct {
	// Idle is how long an instance may wait for its next call.
	Idle time.Duration
	// Sandbox is what makes containers; empty for what the machine has.
	Sandbox string
	// Stems is how many are held ready of each runtime.
	Stems int
}

func (n Node) flags(name string) []string {
	flags := []string{"--node", name, "--idle", n.Idle.String(), "--cpu", strconv.Itoa(cpuMillis), "--stems", strconv.Itoa(n.Stems)}
	if n.Sandbox != "" {
		flags = append(flags, "--sandbox", n.Sandbox)
	}
	return flags
}

// Cluster is a running Dayfly.
type Cluster struct {
	// Addr is host:port of its gateway.
	Addr string
	API  *client.Client

	node      string
	owner     string // value of the label on its containers
	processes []*process
	engines   *baseline.Child // nil for those inside `up`
	site      Site
	outside   []string // flags that say where the engines are
	worker    string   // host:port at which the events worker tells its figures
}

// Up starts every role in one process.
func (s Site) Up(ctx context.Context, n Node) (*Cluster, error) {
	return s.start(ctx, func(c *Cluster, node string) error {
		return c.launch(s, "up", append(n.flags(node), "--listen", c.Addr, "--data", filepath.Join(s.Dir, "up"))...)
	})
}

// Apart starts every role in a process of its own, and NATS and S3 in another one,
// over the data that Up left. The events worker waits for [Cluster.StartEvents].
func (s Site) Apart(ctx context.Context, n Node) (*Cluster, error) {
	return s.start(ctx, func(c *Cluster, node string) (err error) {
		if c.engines, err = baseline.StartEngines(ctx, filepath.Join(s.Dir, "up")); err != nil {
			return err
		}
		at := c.engines.Address
		c.outside = []string{
			"--nats", at.NATS, "--s3-endpoint", at.S3,
			"--s3-access-key", at.S3AccessKey, "--s3-secret-key", at.S3SecretKey,
		}
		for _, role := range []string{"scheduler", "invoker", "builder", "gateway"} {
			flags := c.outside
			listen, err := baseline.FreeAddress()
			if err != nil {
				return err
			}
			switch role {
			case "scheduler":
				flags = []string{"--nats", at.NATS}
			case "gateway":
				listen = c.Addr
			case "invoker":
				flags = append(n.flags(node), flags...)
				fallthrough
			case "builder":
				flags = append([]string{"--data", filepath.Join(s.Dir, role)}, flags...)
			}
			if err := c.launch(s, role, append([]string{"--listen", listen}, flags...)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// StartEvents starts the events worker of a cluster whose roles are apart.
func (c *Cluster) StartEvents() (err error) {
	if c.worker, err = baseline.FreeAddress(); err != nil {
		return err
	}
	return c.launch(c.site, "events", append([]string{"--listen", c.worker}, c.outside...)...)
}

// NATS is the URL of the NATS server of a cluster whose roles are apart.
func (c *Cluster) NATS() string { return c.engines.Address.NATS }

func (s Site) start(ctx context.Context, launch func(c *Cluster, node string) error) (*Cluster, error) {
	addr, err := baseline.FreeAddress()
	if err != nil {
		return nil, err
	}
	node := "bench-" + strconv.Itoa(os.Getpid())
	c := &Cluster{Addr: addr, node: node, owner: "invoker/" + node, site: s, worker: addr}
	if c.API, err = client.New("http://" + addr); err != nil {
		return nil, err
	}
	if err = launch(c, node); err == nil {
		err = c.awaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) launch(s Site, role string, flags ...string) error {
	p, err := launch(s.Binary, filepath.Join(s.Dir, role+".log"), append([]string{role}, flags...)...)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return nil
}

// poll asks again and again until the answer is yes.
func (c *Cluster) poll(ctx context.Context, bound time.Duration, what string, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		yes, err := ask(ctx)
		if yes {
			return nil
		}
		for _, p := range c.processes {
			if ended := p.ended(); ended != nil {
				return ended
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited for %s: %w", what, context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) awaitReady(ctx context.Context) error {
	return c.poll(ctx, startBound, "dayfly to be ready", func(ctx context.Context) (bool, error) {
		err := c.API.Ready(ctx)
		return err == nil, err
	})
}

// AwaitEmpty waits until the node has no instance.
func (c *Cluster) AwaitEmpty(ctx context.Context) error {
	return c.poll(ctx, removeBound, "all instances to end", func(ctx context.Context) (bool, error) {
		nodes, err := c.API.Nodes(ctx)
		return err == nil && len(nodes) == 1 && nodes[0].Reserved.Instances == 0, err
	})
}

// Deploy deploys a function and returns its new version.
func (c *Cluster) Deploy(ctx context.Context, f hello.Copy, options ...client.DeployOption) (functions.Version, error) {
	packed, err := f.Bundle()
	if err != nil {
		return functions.Version{}, err
	}
	done, err := c.API.Deploy(ctx, "", packed, options...)
	if err != nil {
		return functions.Version{}, fmt.Errorf("deploy %s: %w", f.Name, err)
	}
	return done.Version, nil
}

// Target is what calls a function by its URL.
func (c *Cluster) Target(ref string) load.Target {
	return load.Target{Addr: c.Addr, Path: "/f/" + ref}
}

// Grow makes n instances of a function warm.
func (c *Cluster) Grow(ctx context.Context, ref string, n int) error {
	target := c.Target(ref)
	// Held until the others have been placed, so that none is used twice.
	target.Path += "?hold=" + url.QueryEscape("0.5s")
	for have := 0; have < n; {
		have = min(have+growth, n)
		if _, err := load.Once(ctx, target, have); err != nil {
			return fmt.Errorf("start %d instances: %w", have, err)
		}
	}
	return nil
}

// ColdCall calls a function for the first time and returns the time until the
// answer's first byte, and that which its instance took to start as the node saw it.
func (c *Cluster) ColdCall(ctx context.Context, ref string) (took, start time.Duration, err error) {
	return coldCall(ctx, http.DefaultClient, "http://"+c.Addr+"/f/"+ref)
}

// Node is the name of its node.
func (c *Cluster) Node() string { return c.node }

// PIDs are its processes, without containers.
func (c *Cluster) PIDs() []int {
	pids := make([]int, 0, len(c.processes))
	for _, p := range c.processes {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// Stop stops all processes, in the order that lets each end its work, and removes
// containers that one left behind, which is an error.
func (c *Cluster) Stop() error {
	var errs []error
	for i := len(c.processes) - 1; i >= 0; i-- {
		errs = append(errs, c.processes[i].stop())
	}
	if c.engines != nil {
		errs = append(errs, c.engines.Stop())
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeBound)
	defer cancel()
	if _, err := baseline.DockerVersion(ctx); err != nil { // it made no containers
		return errors.Join(errs...)
	}
	left, err := baseline.RemoveContainers(ctx, "run.dayfly.owner="+c.owner)
	if left > 0 {
		err = errors.Join(err, fmt.Errorf("dayfly left %d containers behind; they were removed", left))
	}
	return errors.Join(append(errs, err)...)
}
