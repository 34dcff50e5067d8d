package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "lan"
	// runBound limits a program that sets up a host.
	runBound = time.Minute
	lanBits  = 24
)

// lanPrefix is the network of all hosts; it is in namespaces of ours only.
var lanPrefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, 0, 0}), lanBits)

// lan is an Ethernet of hosts. It is used by one goroutine.
type lan struct {
	bridge *os.File // the namespace with the bridge
	hosts  []*Host
}

// Host is a machine on the network: a network namespace with one card. Its methods may be
// called by any number of goroutines, but for those that change what reaches it.
type Host struct {
	Name string
	IP   netip.Addr
	ns   *os.File
}

func newLAN() (*lan, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	l := &lan{bridge: ns}
	if err := within(ns, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("make a bridge: %w", err), l.close())
	}
	return l, nil
}

// address is that of the machine that is added after so many more.
func (l *lan) address(more int) netip.Addr {
	ip := lanPrefix.Addr().Next()
	for range len(l.hosts) + more {
		ip = ip.Next()
	}
	return ip
}

// host adds a machine.
func (l *lan) host(name string) (*Host, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, IP: l.address(0), ns: ns}
	l.hosts = append(l.hosts, h)
	if err := l.plug(h); err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return h, nil
}

// plug connects a host's card with the bridge.
func (l *lan) plug(h *Host) error {
	err := within(l.bridge, func() error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "p-" + h.Name, MasterIndex: bridge.Attrs().Index},
			PeerName:  card, PeerNamespace: netlink.NsFd(h.ns.Fd()),
		}
		if err := netlink.LinkAdd(port); err != nil {
			return err
		}
		return netlink.LinkSetUp(port)
	})
	if err != nil {
		return err
	}
	return within(h.ns, func() error {
		link, err := netlink.LinkByName(card)
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: h.IP.AsSlice(), Mask: net.CIDRMask(lanBits, 32)}}
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
	})
}

func (l *lan) close() error {
	errs := []error{l.bridge.Close()}
	for _, h := range l.hosts {
		errs = append(errs, h.ns.Close())
	}
	return errors.Join(errs...)
}

// At is the host's address with a port.
func (h *Host) At(port uint16) string { return netip.AddrPortFrom(h.IP, port).String() }

// DialContext connects from the host to an address of the network.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = within(h.ns, func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// run runs a program on the host.
func (h *Host) run(name string, args ...string) error {
	return within(h.ns, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), runBound)
		defer cancel()
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s on %s: %w: %s", strings.Join(append([]string{name}, args...), " "), h.Name, err, out)
		}
		return nil
	})
}

// newNamespace makes a network namespace with its loopback up.
func newNamespace() (ns *os.File, err error) {
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if ns, err = os.Open(ownNamespace); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return ns, nil
}

// within calls f on a thread that is in a network namespace.
func within(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

const ownNamespace = "/proc/thread-self/ns/net"

// onOwnThread calls f on a thread that returns to its network namespace afterwards, or
// ends when it cannot.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(ownNamespace)
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
