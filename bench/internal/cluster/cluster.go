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

// Cluster is a running Dayfly.
type Cluster struct {
	// Addr is host:port of its gateway.
	Addr string
	API  *client.Client

	owner     string // value of the label on its containers
	processes []*process
	engines   *baseline.Child // nil for those inside `up`
}

// Up starts every role in one process. An instance ends once it was idle for the
// given time.
func (s Site) Up(ctx context.Context, idle time.Duration) (*Cluster, error) {
	return s.start(ctx, func(c *Cluster, node string) error {
		return c.launch(s, "up", append(nodeFlags(node, idle), "--listen", c.Addr, "--data", filepath.Join(s.Dir, "up"))...)
	})
}

// Apart starts every role in a process of its own, and NATS and S3 in another one,
// over the data that Up left.
func (s Site) Apart(ctx context.Context, idle time.Duration) (*Cluster, error) {
	return s.start(ctx, func(c *Cluster, node string) (err error) {
		if c.engines, err = baseline.StartEngines(ctx, filepath.Join(s.Dir, "up")); err != nil {
			return err
		}
		at := c.engines.Address
		outside := []string{
			"--nats", at.NATS, "--s3-endpoint", at.S3,
			"--s3-access-key", at.S3AccessKey, "--s3-secret-key", at.S3SecretKey,
		}
		for _, role := range []string{"scheduler", "invoker", "builder", "gateway"} {
			flags := outside
			listen, err := baseline.FreeAddress()
			if err != nil {
				return err
			}
			switch role {
			case "gateway":
				listen = c.Addr
			case "invoker":
				flags = append(nodeFlags(node, idle), flags...)
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

func nodeFlags(node string, idle time.Duration) []string {
	return []string{"--node", node, "--idle", idle.String(), "--cpu", strconv.Itoa(cpuMillis)}
}

func (s Site) start(ctx context.Context, launch func(c *Cluster, node string) error) (*Cluster, error) {
	addr, err := baseline.FreeAddress()
	if err != nil {
		return nil, err
	}
	node := "bench-" + strconv.Itoa(os.Getpid())
	c := &Cluster{Addr: addr, owner: "invoker/" + node}
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

// Deploy deploys a function and returns the number of its new version.
func (c *Cluster) Deploy(ctx context.Context, f hello.Copy) (int, error) {
	packed, err := f.Bundle()
	if err != nil {
		return 0, err
	}
	done, err := c.API.Deploy(ctx, "", packed)
	if err != nil {
		return 0, fmt.Errorf("deploy %s: %w", f.Name, err)
	}
	return done.Version.Number, nil
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
	left, err := baseline.RemoveContainers(ctx, "run.dayfly.owner="+c.owner)
	if left > 0 {
		err = errors.Join(err, fmt.Errorf("dayfly left %d containers behind; they were removed", left))
	}
	return errors.Join(append(errs, err)...)
}
