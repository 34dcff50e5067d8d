package oci

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostnet"
)

// bridgePrefix begins the name of every bridge of this kind of sandbox.
const bridgePrefix = "dfo"

// rules are the packet filter's for one bridge, in chains of our own.
type rules struct {
	kind   sandbox.Network
	bridge string
	// Names of chains, of at most 28 bytes: for packets out of the network, into
	// it, to the host itself, and for hiding addresses.
	out, in, input, nat string
}

func newRules(hash string, kind sandbox.Network, bridge string) rules {
	name := func(what string) string { return "DFOCI-" + strings.ToUpper(string(kind)) + "-" + what + "-" + hash }
	return rules{kind: kind, bridge: bridge, out: name("OUT"), in: name("IN"), input: name("HOST"), nat: name("NAT")}
}

// apply fills our chains at once, so that no packet meets half of them, and then
// leads to them what comes from the bridge and goes to it.
func (r rules) apply(ctx context.Context, prefix netip.Prefix, servers []netip.Addr) error {
	if err := hostnet.Command(ctx, r.text(prefix, servers), "iptables-restore", "--wait", "--noflush"); err != nil {
		return err
	}
	for _, j := range r.jumps() {
		if iptables(ctx, j.table, "-C", j.rule...) == nil {
			continue
		}
		if err := iptables(ctx, j.table, "-I", j.rule...); err != nil {
			return err
		}
	}
	return nil
}

// text is the chains as iptables-restore reads them. With egress, refused are
// private ranges beyond the host and the host itself, but for the host's name
// servers, which often have private addresses.
func (r rules) text(prefix netip.Prefix, servers []netip.Addr) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n:%s - [0:0]\n:%s - [0:0]\n", r.out, r.in, r.input)
	// Containers meet in no network, whoever's they are.
	fmt.Fprintf(&b, "-A %s -o %s+ -j REJECT\n", r.out, bridgePrefix)
	if r.kind == sandbox.NetworkEgress {
		for _, server := range servers {
			for _, chain := range []string{r.out, r.input} {
				for _, protocol := range []string{"udp", "tcp"} {
					fmt.Fprintf(&b, "-A %s -d %s -p %s --dport 53 -j ACCEPT\n", chain, server, protocol)
				}
			}
		}
		for _, private := range hostnet.NotEgress() {
			fmt.Fprintf(&b, "-A %s -d %s -j REJECT\n", r.out, private)
		}
		fmt.Fprintf(&b, "-A %s -j REJECT\n", r.input)
	}
	fmt.Fprintf(&b, "-A %s -j ACCEPT\n", r.out)
	fmt.Fprintf(&b, "-A %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A %s -j DROP\nCOMMIT\n", r.in, r.in)
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n-A %s -s %s ! -o %s -j MASQUERADE\nCOMMIT\n", r.nat, r.nat, prefix, r.bridge)
	return b.String()
}

// jump leads from one of the host's chains to one of ours.
type jump struct {
	table string
	rule  []string // the chain first
}

func (r rules) jumps() []jump {
	return []jump{
		{"filter", []string{"FORWARD", "-i", r.bridge, "-j", r.out}},
		{"filter", []string{"FORWARD", "-o", r.bridge, "-j", r.in}},
		{"filter", []string{"INPUT", "-i", r.bridge, "-j", r.input}},
		{"nat", []string{"POSTROUTING", "-j", r.nat}},
	}
}

// remove takes away those of the chains and jumps that are there.
func (r rules) remove(ctx context.Context) error {
	if _, err := exec.LookPath("iptables"); err != nil {
		return nil // without it there was never a rule
	}
	var errs []error
	chains := map[string]string{r.out: "filter", r.in: "filter", r.input: "filter", r.nat: "nat"}
	for _, j := range r.jumps() {
		chain := j.rule[len(j.rule)-1]
		if iptables(ctx, j.table, "-S", chain) != nil {
			delete(chains, chain) // without the chain nothing leads to it
			continue
		}
		if iptables(ctx, j.table, "-C", j.rule...) == nil {
			errs = append(errs, iptables(ctx, j.table, "-D", j.rule...))
		}
	}
	for chain, table := range chains {
		errs = append(errs, iptables(ctx, table, "-F", chain), iptables(ctx, table, "-X", chain))
	}
	// A look that was broken off is like a rule that is not there.
	return errors.Join(append(errs, context.Cause(ctx))...)
}

func iptables(ctx context.Context, table, verb string, rule ...string) error {
	return hostnet.Command(ctx, "", "iptables", append([]string{"--wait", "--table", table, verb}, rule...)...)
}

// resolver reads the first file that has IPv4 name servers which a container
// could ask, and returns them and a resolv.conf with them.
func resolver(files ...string) (servers []netip.Addr, conf string) {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if servers, conf = parseResolver(string(data)); len(servers) > 0 {
			return servers, conf
		}
	}
	return nil, ""
}

func parseResolver(data string) (servers []netip.Addr, conf string) {
	var b strings.Builder
	for line := range strings.Lines(data) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(fields[1]); err == nil && ip.Is4() && !ip.IsLoopback() {
				servers = append(servers, ip)
				b.WriteString("nameserver " + ip.String() + "\n")
			}
		case "search", "domain", "options":
			b.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	return servers, b.String()
}
