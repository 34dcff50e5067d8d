package oci

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	nshandle "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

// outside is a namespace that plays the world beyond the host.
type outside struct {
	host, public, private netip.Addr
	netns                 *netns
}

// newOutside links a namespace to the host, with a public and a private address.
func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{}
	var err error
	o.host, o.public, err = sandboxtest.Place(true)
	must(t, err)
	_, o.private, err = sandboxtest.Place(false)
	must(t, err)
	if o.netns, err = newNetns(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.netns.close(); err != nil {
			t.Error(err)
		}
	})
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "dft" + strconv.Itoa(os.Getpid())},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(o.netns.file.Fd()),
	}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { must(t, netlink.LinkDel(veth)) })
	must(t, netlink.AddrAdd(veth, addr(o.host, 30)))
	must(t, netlink.LinkSetUp(veth))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Index, Dst: addr(o.private, 32).IPNet}))
	inside, err := netlink.NewHandleAt(nshandle.NsHandle(o.netns.file.Fd()))
	must(t, err)
	defer inside.Close()
	link, err := inside.LinkByName("eth0")
	must(t, err)
	must(t, inside.AddrAdd(link, addr(o.public, 30)))
	must(t, inside.AddrAdd(link, addr(o.private, 32)))
	must(t, inside.LinkSetUp(link))
	return o
}

func addr(ip netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listen opens a listener in a namespace, or with nil on the host.
func listen(ns *netns, ip netip.Addr) (l net.Listener, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if ns != nil {
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return nil, err
		}
		defer home.Close()
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)) }()
	}
	return (&net.ListenConfig{}).Listen(context.Background(), "tcp4", netip.AddrPortFrom(ip, 0).String())
}

// serve answers connections to an address in a namespace with where they come
// from, and returns the port.
func serve(t *testing.T, ns *netns, ip netip.Addr) int {
	t.Helper()
	l, err := listen(ns, ip)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = c.Write([]byte(host + "\n"))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// dial connects from a container and returns what it reads.
func dial(t *testing.T, s *Sandbox, n sandbox.Network, ip netip.Addr, port int) string {
	t.Helper()
	spec := plainSpec("/bin/bash", "-c", `exec >/out/log 2>&1
		exec timeout 4 bash -c "exec 3<>/dev/tcp/`+ip.String()+`/`+strconv.Itoa(port)+`; head -n 1 <&3"`)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	spec.Mounts = []sandbox.Mount{{Source: dir, Target: "/out"}}
	spec.Network = n
	c, err := s.Start(t.Context(), spec)
	must(t, err)
	sandboxtest.Await(t, c.Exited(), "its end")
	must(t, c.Remove(context.Background()))
	content, err := os.ReadFile(filepath.Join(dir, "log"))
	must(t, err)
	return strings.TrimSpace(string(content))
}

func TestNetworks(t *testing.T) {
	o := newOutside(t)
	public, private, host := serve(t, o.netns, o.public), serve(t, o.netns, o.private), serve(t, nil, o.host)
	s := openReady(t, "networks", "")
	other := plainSpec("/bin/sleep", "1000")
	other.Network = sandbox.NetworkEgress
	neighbour, err := s.Start(t.Context(), other)
	must(t, err)
	defer func() { must(t, neighbour.Remove(context.Background())) }()
	next := netip.MustParseAddr(address(s.networks[sandbox.NetworkEgress].prefix, 2).IP.String())
	ns := neighbour.(*container).netns
	// The pool's first member has the first address.
	near := serve(t, ns, netip.IPv4Unspecified())

	for _, test := range []struct {
		network sandbox.Network
		what    string
		to      netip.Addr
		port    int
		ok      bool
	}{
		{sandbox.NetworkEgress, "a public address", o.public, public, true},
		{sandbox.NetworkEgress, "a private address", o.private, private, false},
		{sandbox.NetworkEgress, "the host", o.host, host, false},
		{sandbox.NetworkEgress, "a neighbour", next, near, false},
		{sandbox.NetworkOpen, "a public address", o.public, public, true},
		{sandbox.NetworkOpen, "a private address", o.private, private, true},
		{sandbox.NetworkOpen, "the host", o.host, host, true},
		{sandbox.NetworkOpen, "a neighbour", next, near, false},
		{sandbox.NetworkNone, "a public address", o.public, public, false},
	} {
		got := dial(t, s, test.network, test.to, test.port)
		if _, err := netip.ParseAddr(got); (err == nil) != test.ok {
			t.Errorf("with %s, %s answers %q", test.network, test.what, got)
		}
		if test.ok && test.to != o.host && got != o.host.String() {
			t.Errorf("with %s, %s sees %q and not the host", test.network, test.what, got)
		}
	}
	for _, n := range s.networks {
		if kind, err := os.ReadFile("/sys/class/net/" + n.bridge + "/addr_assign_type"); err != nil || string(kind) != "3\n" {
			t.Errorf("bridge %s has no address of its own: %q, %v", n.bridge, kind, err)
		}
	}
	must(t, neighbour.Remove(context.Background()))
	if _, err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	checkNoNetwork(t, s)
}

func TestRules(t *testing.T) {
	t.Parallel()
	r := newRules("00112233", sandbox.NetworkEgress, "dfoe00112233")
	for _, chain := range []string{r.out, r.in, r.input, r.nat} {
		if len(chain) > 28 {
			t.Errorf("chain %s has more than 28 bytes", chain)
		}
	}
	text := r.text(netip.MustParsePrefix("10.64.0.0/16"), []netip.Addr{netip.MustParseAddr("10.255.255.53")})
	golden(t, "rules.golden", []byte(text))
}

func TestChoosePrefix(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		taken string
		want  string
	}{
		{"", "10.64.0.0/16"},
		{"0.0.0.0/0", "10.64.0.0/16"},
		{"10.64.3.0/24", "10.65.0.0/16"},
		{"10.0.0.0/9 10.128.0.0/16", "10.129.0.0/16"},
		{"10.0.0.0/8", ""},
	} {
		var taken []netip.Prefix
		for _, p := range strings.Fields(test.taken) {
			taken = append(taken, netip.MustParsePrefix(p))
		}
		got, err := choosePrefix("", taken)
		if (err != nil) != (test.want == "") || (err == nil && got.String() != test.want) {
			t.Errorf("beside %q it takes %v; %v", test.taken, got, err)
		}
	}
}

func TestParseResolver(t *testing.T) {
	t.Parallel()
	servers, conf := parseResolver("# host\nnameserver 127.0.0.53\nnameserver 10.1.2.3\nnameserver ::1\nsearch a.example b.example\noptions edns0\n")
	if len(servers) != 1 || servers[0].String() != "10.1.2.3" {
		t.Errorf("servers %v", servers)
	}
	if want := "nameserver 10.1.2.3\nsearch a.example b.example\noptions edns0\n"; conf != want {
		t.Errorf("conf %q", conf)
	}
}
