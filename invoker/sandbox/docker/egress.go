package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// notEgress are the ranges that a function with egress may not reach: private,
// shared, link-local (cloud metadata), loopback and multicast; RFC 6890.
var notEgress = []string{
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
	"169.254.0.0/16", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "0.0.0.0/8",
}

// egress is a bridge of the owner's own from which only public addresses can be
// reached. It is made when it is first needed. Safe for concurrent use.
type egress struct {
	name, bridge string
	owner        string
	client       *client.Client

	mu    sync.Mutex
	ready bool // guarded by mu, which is held while the network is made: once
}

func newEgress(owner string, c *client.Client) *egress {
	sum := sha256.Sum256([]byte(owner))
	short := hex.EncodeToString(sum[:4])
	// Interface names have at most 15 bytes.
	return &egress{name: "dayfly-egress-" + short, bridge: "dfe" + short, owner: owner, client: c}
}

// ensure makes the network and its rules and returns its name.
func (e *egress) ensure(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ready {
		return e.name, nil
	}
	// Rules first: there is no moment without them.
	for _, r := range e.rules() {
		if iptables(ctx, "-C", r) == nil {
			continue
		}
		if err := iptables(ctx, "-I", r); err != nil {
			return "", err
		}
	}
	_, err := e.client.NetworkCreate(ctx, e.name, network.CreateOptions{
		Driver: "bridge",
		Labels: map[string]string{labelOwner: e.owner},
		Options: map[string]string{
			"com.docker.network.bridge.name":       e.bridge,
			"com.docker.network.bridge.enable_icc": "false",
		},
	})
	if err != nil && !strings.Contains(err.Error(), "already exists") {
		return "", err
	}
	e.ready = true
	return e.name, nil
}

// remove takes the owner's network and rules away, if they are there.
func (e *egress) remove(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	list, err := e.client.NetworkList(ctx, network.ListOptions{
		Filters: filters.NewArgs(filters.Arg("label", labelOwner+"="+e.owner)),
	})
	if err != nil {
		return fmt.Errorf("docker: list networks: %w", err)
	}
	if len(list) == 0 && !e.ready {
		return nil
	}
	var errs []error
	for _, n := range list {
		if err := e.client.NetworkRemove(ctx, n.ID); err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("docker: remove network %s: %w", n.Name, err))
		}
	}
	for _, r := range e.rules() {
		if iptables(ctx, "-C", r) != nil {
			continue
		}
		if err := iptables(ctx, "-D", r); err != nil {
			errs = append(errs, err)
		}
	}
	e.ready = false
	return errors.Join(errs...)
}

// rules are chain and match, each put before those above it: refused are private
// ranges beyond the host and the host itself, but for the host's name servers,
// which are asked from inside the container and often have private addresses.
func (e *egress) rules() [][]string {
	rules := [][]string{{"INPUT", "-i", e.bridge, "-j", "REJECT"}}
	for _, r := range notEgress {
		rules = append(rules, []string{"DOCKER-USER", "-i", e.bridge, "-d", r, "-j", "REJECT"})
	}
	for _, server := range nameServers() {
		for _, protocol := range []string{"udp", "tcp"} {
			match := []string{"-i", e.bridge, "-d", server, "-p", protocol, "--dport", "53", "-j", "ACCEPT"}
			rules = append(rules, append([]string{"INPUT"}, match...), append([]string{"DOCKER-USER"}, match...))
		}
	}
	return rules
}

// nameServers lists the IPv4 name servers of the host that a container could ask.
func nameServers() []string {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
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
	return servers
}

func iptables(ctx context.Context, verb string, rule []string) error {
	args := append([]string{"--wait", verb}, rule...)
	if out, err := exec.CommandContext(ctx, "iptables", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
