package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/dayfly-run/dayfly/invoker/sandbox/hostnet"
)

// egressFresh is for how long the network and its rules are believed to be there.
// A firewall that is reloaded takes the rules with it.
const egressFresh = 5 * time.Second

// egress is a bridge of the owner's own from which only public addresses can be
// reached. It is made when it is first needed. Safe for concurrent use.
type egress struct {
	name, bridge   string
	forward, input string // chains of our own, for packets through the host and to it
	owner          string
	client         *client.Client
	log            *slog.Logger
	resolvers      []string // files that name the host's name servers

	turn chan struct{} // holds one: taken while the network is made or removed
	seen time.Time     // guarded by turn: when it was last made sure of
}

func newEgress(owner string, c *client.Client, log *slog.Logger) *egress {
	sum := sha256.Sum256([]byte(owner))
	short := hex.EncodeToString(sum[:4])
	return &egress{
		// Names of interfaces have at most 15 bytes, of chains 28.
		name: "dayfly-egress-" + short, bridge: "dfe" + short,
		forward: "DAYFLY-FORWARD-" + short, input: "DAYFLY-INPUT-" + short,
		resolvers: hostnet.Resolvers(), owner: owner, client: c, log: log, turn: make(chan struct{}, 1),
	}
}

// lock takes the turn; unlock gives it back.
func (e *egress) lock(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *egress) unlock() { <-e.turn }

// ensure makes the network and its rules, unless they are there, and returns its
// name.
func (e *egress) ensure(ctx context.Context) (string, error) {
	if err := e.lock(ctx); err != nil {
		return "", err
	}
	defer e.unlock()
	if time.Since(e.seen) < egressFresh {
		return e.name, nil
	}
	if err := context.Cause(ctx); err != nil {
		return "", err
	}
	// Not broken off: an engine that was asked makes the network all the same, maybe
	// after remove has looked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	// Rules first: there is no moment without them.
	if err := e.makeRules(ctx); err != nil {
		return "", err
	}
	if err := e.makeNetwork(ctx); err != nil {
		return "", err
	}
	e.seen = time.Now()
	return e.name, nil
}

func (e *egress) makeNetwork(ctx context.Context) error {
	found, err := e.client.NetworkInspect(ctx, e.name, network.InspectOptions{})
	switch {
	case err == nil && found.Labels[labelOwner] != e.owner:
		return fmt.Errorf("there is a network %s of somebody else's; remove it with `docker network rm`", e.name)
	case err == nil || !errdefs.IsNotFound(err):
		return err
	}
	ipv6 := false
	_, err = e.client.NetworkCreate(ctx, e.name, network.CreateOptions{
		Driver:     "bridge",
		EnableIPv6: &ipv6, // the rules are for IPv4
		Labels:     map[string]string{labelOwner: e.owner},
		Options: map[string]string{
			"com.docker.network.bridge.name":       e.bridge,
			"com.docker.network.bridge.enable_icc": "false",
		},
	})
	return err
}

// makeRules fills our two chains at once, so that no packet meets half of the
// rules, and then leads to them whatever comes from the bridge.
func (e *egress) makeRules(ctx context.Context) error {
	if err := hostnet.Command(ctx, e.rules(), "iptables-restore", "--wait", "--noflush"); err != nil {
		return err
	}
	for _, jump := range e.jumps() {
		if iptables(ctx, "-C", jump...) == nil {
			continue
		}
		if err := iptables(ctx, "-I", jump...); err != nil {
			return err
		}
	}
	return nil
}

// remove takes the owner's network and rules away, if they are there. Rules stay
// while the network does.
func (e *egress) remove(ctx context.Context) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	list, err := e.client.NetworkList(ctx, network.ListOptions{
		Filters: filters.NewArgs(filters.Arg("label", labelOwner+"="+e.owner)),
	})
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	e.seen = time.Time{}
	var errs []error
	for _, n := range list {
		if err := e.removeNetwork(ctx, n.ID); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove network %s: %w", n.Name, err))
		}
	}
	if _, missing := exec.LookPath("iptables"); len(errs) > 0 || missing != nil {
		return errors.Join(errs...) // without iptables there was never a rule
	}
	return e.removeRules(ctx)
}

// removeNetwork removes a network. An engine in which many containers come and go at a time
// miscounts now and then what is attached to their network, and then refuses to remove it
// until the engine is started again (github.com/moby/moby/issues/42119). Such a network is
// empty and stays: the owner's next start takes it over.
func (e *egress) removeNetwork(ctx context.Context, id string) error {
	refusal := e.client.NetworkRemove(ctx, id)
	if !errdefs.IsPermissionDenied(refusal) {
		return refusal
	}
	found, err := e.client.NetworkInspect(ctx, id, network.InspectOptions{})
	if err != nil || len(found.Containers) > 0 {
		return refusal
	}
	e.log.Warn("the engine has miscounted what is attached to an empty network and keeps it until it is started again",
		"network", found.Name, "error", refusal)
	return nil
}

func (e *egress) removeRules(ctx context.Context) error {
	var errs []error
	for _, jump := range e.jumps() {
		if iptables(ctx, "-C", jump...) == nil {
			errs = append(errs, iptables(ctx, "-D", jump...))
		}
	}
	for _, chain := range []string{e.forward, e.input} {
		if iptables(ctx, "-S", chain) == nil {
			errs = append(errs, iptables(ctx, "-F", chain), iptables(ctx, "-X", chain))
		}
	}
	// A check that was broken off looks like a rule that is not there.
	return errors.Join(append(errs, context.Cause(ctx))...)
}

// jumps lead from the engine's and the host's chains to ours.
func (e *egress) jumps() [][]string {
	return [][]string{
		{"DOCKER-USER", "-i", e.bridge, "-j", e.forward},
		{"INPUT", "-i", e.bridge, "-j", e.input},
	}
}

// rules are our two chains as iptables-restore reads them: refused are private
// ranges beyond the host and the host itself, but for the host's name servers,
// which are asked from inside the container and often have private addresses.
func (e *egress) rules() string {
	var b strings.Builder
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n:%s - [0:0]\n", e.forward, e.input)
	for _, server := range nameServers(e.resolvers...) {
		for _, chain := range []string{e.forward, e.input} {
			for _, protocol := range []string{"udp", "tcp"} {
				fmt.Fprintf(&b, "-A %s -d %s -p %s --dport 53 -j ACCEPT\n", chain, server, protocol)
			}
		}
	}
	for _, r := range hostnet.NotEgress() {
		fmt.Fprintf(&b, "-A %s -d %s -j REJECT\n", e.forward, r)
	}
	fmt.Fprintf(&b, "-A %s -j REJECT\nCOMMIT\n", e.input)
	return b.String()
}

// nameServers lists the IPv4 name servers that a container could ask: those of
// the first file that has any, as the engine does.
func nameServers(files ...string) []string {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var servers []string
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "nameserver" {
				continue
			}
			if ip, err := netip.ParseAddr(fields[1]); err == nil && ip.Is4() && !ip.IsLoopback() {
				servers = append(servers, ip.String())
			}
		}
		if len(servers) > 0 {
			return servers
		}
	}
	return nil
}

func iptables(ctx context.Context, verb string, rule ...string) error {
	return hostnet.Command(ctx, "", "iptables", append([]string{"--wait", verb}, rule...)...)
}
