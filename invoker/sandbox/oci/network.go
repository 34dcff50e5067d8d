package oci

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	nshandle "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostnet"
)

const (
	// readyAlone and readyJoined are how many network namespaces wait: without a
	// network, and in one, where they are dearer.
	readyAlone, readyJoined = 8, 3
	// networkFresh is for how long a network and its rules are believed to be there.
	// A firewall that is reloaded takes the rules with it.
	networkFresh = 5 * time.Second
	// prefixBits is the size of a network's range.
	prefixBits = 16
)

// network is a bridge of the owner's own, which hides its containers behind the
// host's address and from each other. It is made when it is first needed. Safe for
// concurrent use.
type network struct {
	kind       sandbox.Network
	bridge     string // interface names have at most 15 bytes
	veth       string // prefix
	rules      rules
	resolvConf string // file
	sandbox    *Sandbox

	turn   chan struct{} // holds one: taken while the network is made or removed
	seen   time.Time     // guarded by turn: when it was last made sure of
	pool   *netPool      // guarded by turn
	prefix netip.Prefix  // guarded by turn; fixed while there is a pool
	index  int           // guarded by turn; the bridge's

	mu   sync.Mutex
	next uint16              // guarded by mu
	used map[uint16]struct{} // guarded by mu: the addresses' last two bytes
}

func newNetwork(s *Sandbox, kind sandbox.Network) *network {
	letter := string(kind[0])
	bridge := bridgePrefix + letter + s.hash
	return &network{
		kind: kind, bridge: bridge, veth: "d" + letter + s.hash, rules: newRules(s.hash, kind, bridge),
		resolvConf: filepath.Join(filepath.Dir(s.state), "resolv-"+string(kind)+".conf"),
		sandbox:    s, turn: make(chan struct{}, 1), used: map[uint16]struct{}{},
	}
}

// lock takes the turn; unlock gives it back.
func (n *network) lock(ctx context.Context) error {
	select {
	case n.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (n *network) unlock() { <-n.turn }

// join returns a namespace in the network, and its /etc/resolv.conf.
func (n *network) join(ctx context.Context) (*netns, string, error) {
	if err := n.lock(ctx); err != nil {
		return nil, "", err
	}
	err := n.ensure(ctx)
	pool := n.pool
	n.unlock()
	if err != nil {
		return nil, "", fmt.Errorf("oci: prepare network %s: %w", n.kind, err)
	}
	ns, err := pool.take(ctx)
	return ns, n.resolvConf, err
}

// ensure makes the network and its rules, unless they are there.
func (n *network) ensure(ctx context.Context) error {
	if n.pool != nil && time.Since(n.seen) < networkFresh {
		return nil
	}
	if n.pool != nil {
		if link, err := netlink.LinkByName(n.bridge); err != nil || link.Attrs().Index != n.index {
			n.sandbox.log.Warn("a network is gone and is made again", "network", n.kind)
			if err := n.pool.close(); err != nil {
				return err
			}
			n.pool = nil
		}
	}
	if n.pool == nil {
		var err error
		if n.prefix, err = freePrefix(n.sandbox.hash, n.kind); err != nil {
			return err
		}
	}
	// Rules first: there is no moment without them.
	servers, settings := resolver(hostnet.Resolvers()...)
	if err := n.rules.apply(ctx, n.prefix, servers); err != nil {
		return err
	}
	if n.pool == nil {
		if err := os.WriteFile(n.resolvConf, []byte(settings), 0o644); err != nil {
			return err
		}
		mtu, err := n.makeBridge()
		if err != nil {
			return err
		}
		n.pool = newNetPool(readyJoined, func() (*netns, error) { return n.member(mtu) }, n.sandbox.log)
	}
	n.seen = time.Now()
	return nil
}

// makeBridge makes the bridge, with the network's first address, and returns the
// largest packet that goes through the host.
func (n *network) makeBridge() (mtu int, err error) {
	if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return 0, fmt.Errorf("let the host forward packets: %w", err)
	}
	mtu = hostMTU()
	// With an address of its own: see hostnet.Steady.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.bridge, MTU: mtu, HardwareAddr: hostnet.RandomLinkAddress()}}
	if old, err := netlink.LinkByName(n.bridge); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return 0, fmt.Errorf("remove the old bridge %s: %w", n.bridge, err)
		}
	}
	if err := netlink.LinkAdd(bridge); err != nil {
		return 0, fmt.Errorf("make bridge %s: %w", n.bridge, err)
	}
	// The rules are for IPv4.
	err = disableIPv6(n.bridge)
	if err == nil {
		err = netlink.AddrAdd(bridge, address(n.prefix, 1))
	}
	if err == nil {
		err = netlink.LinkSetUp(bridge)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("set up bridge %s: %w", n.bridge, err), netlink.LinkDel(bridge))
	}
	n.index = bridge.Index
	return mtu, nil
}

// member makes a namespace with a link to the bridge.
func (n *network) member(mtu int) (*netns, error) {
	ns, err := newNetns(func() error { return disableIPv6("default") })
	if err != nil {
		return nil, err
	}
	host, err := n.allocate()
	if err == nil {
		ns.release = func() { n.free(host) }
		err = n.plug(ns, host, mtu)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("oci: join network %s: %w", n.kind, err), ns.close())
	}
	return ns, nil
}

// plug links a namespace to the bridge.
func (n *network) plug(ns *netns, host uint16, mtu int) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: n.veth + strconv.FormatUint(uint64(host), 16), MTU: mtu, MasterIndex: n.index},
		PeerName:  "eth0", PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(ns.file.Fd()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s: %w", veth.Name, err)
	}
	// Containers do not see each other. The link goes with the namespace.
	if err := netlink.LinkSetIsolated(veth, true); err != nil {
		return fmt.Errorf("isolate link %s: %w", veth.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(nshandle.NsHandle(ns.file.Fd()))
	if err != nil {
		return err
	}
	defer inside.Close()
	link, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := inside.AddrAdd(link, address(n.prefix, host)); err != nil {
		return err
	}
	if err := inside.LinkSetUp(link); err != nil {
		return err
	}
	return inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: address(n.prefix, 1).IP})
}

// allocate takes a host number; the least recently used ones come first, so that
// no neighbour remembers who had it.
func (n *network) allocate() (uint16, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range 1 << prefixBits {
		n.next++
		if _, taken := n.used[n.next]; !taken && n.next > 1 && n.next < 1<<prefixBits-1 {
			n.used[n.next] = struct{}{}
			return n.next, nil
		}
	}
	return 0, fmt.Errorf("all addresses of %s are taken", n.bridge)
}

func (n *network) free(host uint16) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.used, host)
}

// remove takes the network away, with what an earlier run left of it.
func (n *network) remove(ctx context.Context) error {
	if err := n.lock(ctx); err != nil {
		return err
	}
	defer n.unlock()
	var errs []error
	if n.pool != nil {
		errs = append(errs, n.pool.close())
		n.pool = nil
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		errs = append(errs, fmt.Errorf("oci: list network links: %w", err))
	}
	for _, link := range links {
		name := link.Attrs().Name
		if name != n.bridge && !strings.HasPrefix(name, n.veth) {
			continue
		}
		// One half of a link takes the other with it.
		if err := netlink.LinkDel(link); err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("oci: remove link %s: %w", name, err))
		}
	}
	if err := os.Remove(n.resolvConf); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, n.rules.remove(ctx))...)
}

// whole repeats a listing until nothing changed while it was made.
func whole[T any](list func() ([]T, error)) (items []T, err error) {
	for range 100 {
		if items, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return items, err
}

func ipv4Routes() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) }

// address is the n-th address of a network.
func address(p netip.Prefix, n uint16) *netlink.Addr {
	ip := p.Addr().As4()
	binary.BigEndian.PutUint16(ip[2:], n)
	return &netlink.Addr{IPNet: &net.IPNet{IP: ip[:], Mask: net.CIDRMask(prefixBits, 32)}}
}

// freePrefix chooses a private range that no route and no address of the host has
// to do with. Owners begin to look at different places.
func freePrefix(hash string, kind sandbox.Network) (netip.Prefix, error) {
	routes, err := whole(ipv4Routes)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok {
			ones, _ := r.Dst.Mask.Size()
			taken = append(taken, netip.PrefixFrom(ip, ones))
		}
	}
	servers, _ := resolver(hostnet.Resolvers()...)
	for _, s := range servers {
		taken = append(taken, netip.PrefixFrom(s, s.BitLen()))
	}
	return choosePrefix(hash+string(kind), taken)
}

// choosePrefix returns a range in 10.64.0.0 to 10.191.255.255 that overlaps none
// of those taken; a default route does not count.
func choosePrefix(seed string, taken []netip.Prefix) (netip.Prefix, error) {
	start := byte(0)
	for _, b := range []byte(seed) {
		start = start*31 + b
	}
	const first, count = 64, 128
next:
	for i := range byte(count) {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, first + (start+i)%count, 0, 0}), prefixBits)
		for _, t := range taken {
			if t.Bits() > 0 && t.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, errors.New("no private range in 10.64.0.0 to 10.191.255.255 is free")
}

// hostMTU is the largest packet on the link of the default route.
func hostMTU() int {
	const ethernet = 1500
	routes, err := whole(ipv4Routes)
	if err != nil {
		return ethernet
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().MTU
		}
	}
	return ethernet
}

func disableIPv6(link string) error {
	err := sysctl("net/ipv6/conf/"+link+"/disable_ipv6", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// sysctl sets a value, unless it is set already.
func sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}
