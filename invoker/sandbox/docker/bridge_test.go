package docker

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/dayfly-run/dayfly/invoker/sandbox/hostnet"
)

// TestSteady: a bridge's address stays when a port with a lower one comes and goes.
func TestSteady(t *testing.T) {
	t.Parallel()
	name := "dfs" + strconv.Itoa(os.Getpid())
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	port := func(last byte) netlink.Link {
		p := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{
				Name: name + strconv.Itoa(int(last)), MasterIndex: bridge.Index, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, last},
			},
			PeerName: name + "p" + strconv.Itoa(int(last)),
		}
		must(t, netlink.LinkAdd(p))
		t.Cleanup(func() { must(t, netlink.LinkDel(p)) })
		return p
	}
	address := func() net.HardwareAddr {
		link, err := netlink.LinkByName(name)
		must(t, err)
		return link.Attrs().HardwareAddr
	}
	high := port(9)
	if !bytes.Equal(address(), high.Attrs().HardwareAddr) {
		t.Fatalf("a bridge that was given no address has %s, not its port's", address())
	}
	for range 2 {
		must(t, hostnet.Steady(name))
	}
	port(1)
	if !bytes.Equal(address(), high.Attrs().HardwareAddr) {
		t.Errorf("the address became %s", address())
	}
	must(t, hostnet.Steady("no-such-bridge"))
}

// TestSteadyEmpty: a bridge without ports gets an address.
func TestSteadyEmpty(t *testing.T) {
	t.Parallel()
	name := "dft" + strconv.Itoa(os.Getpid())
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	must(t, hostnet.Steady(name))
	link, err := netlink.LinkByName(name)
	must(t, err)
	if a := link.Attrs().HardwareAddr; len(a) != 6 || a[0]&3 != 2 {
		t.Errorf("the address is %s", a)
	}
}

// TestOpenIsSteady: what the engine's own network gives to containers stays.
func TestOpenIsSteady(t *testing.T) {
	s := open(t, "steady")
	defer s.client.Close()
	for range 2 {
		must(t, s.steadyBridge(t.Context()))
	}
	if name := *s.bridge.Load(); name == "" {
		t.Error("the engine does not name its bridge")
	} else if kind, err := os.ReadFile("/sys/class/net/" + name + "/addr_assign_type"); err != nil || string(kind) != "3\n" {
		t.Errorf("bridge %s has no address of its own: %q, %v", name, kind, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
