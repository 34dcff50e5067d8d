package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

// Point 8, too: what a function may reach.

// TestNetworks: which kind of network reaches what.
func TestNetworks(t *testing.T) {
	t.Parallel()
	_, public := place(t, "p", true)
	hostEnd, private := place(t, "q", false)
	host, err := net.Listen("tcp4", hostEnd+":0")
	if err != nil {
		t.Fatal(err)
	}
	greet(t, host)
	cases := []struct {
		network, to string
		at          net.Addr
		want        bool
	}{
		{"none", "a public address", public, false},
		{"none", "the host", host.Addr(), false},
		{"egress", "a public address", public, true},
		{"egress", "a private address", private, false},
		{"egress", "the host", host.Addr(), false},
		{"open", "a public address", public, true},
		{"open", "a private address", private, true},
		{"open", "the host", host.Addr(), true},
	}
	on(t, []sharedSetup{{"up", world.up}, {"oci", world.oci}}, func(t *testing.T, p *platform) {
		for _, c := range cases {
			name := p.shared(t, "name: net-"+c.network+"\nruntime: python\nhandler: app.handler\nnetwork: "+c.network+"\n", "probe/app.py")
			at, ok := c.at.(*net.TCPAddr)
			if !ok {
				t.Fatalf("%v is no TCP address", c.at)
			}
			got := decode[string](t, p.invoke(t, name, map[string]any{"do": "connect", "host": at.IP.String(), "port": at.Port}))
			if (got == "hello") != c.want || !c.want && !strings.HasPrefix(got, "refused: ") {
				t.Errorf("with %s, %s answers %q", c.network, c.to, got)
			}
		}
	})
}

// place makes a network namespace at the far end of a cable, with a server that
// says "hello", and returns this machine's address there and the server's.
func place(t *testing.T, letter string, public bool) (host string, server net.Addr) {
	t.Helper()
	hostEnd, farEnd := sandboxtest.Place(t, public)
	host, address := hostEnd.String(), farEnd.String()
	name := letter + world.mark // an interface's name has at most 15 bytes
	ip(t, "netns", "add", name)
	t.Cleanup(func() { ip(t, "netns", "del", name) }) // and the cable with it
	ip(t, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
	ip(t, "address", "add", host+"/30", "dev", name)
	ip(t, "link", "set", name, "up")
	ip(t, "-n", name, "address", "add", address+"/30", "dev", "eth0")
	ip(t, "-n", name, "link", "set", "eth0", "up")
	opened := make(chan error, 1)
	var listener net.Listener
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
		f, err := os.Open("/var/run/netns/" + name)
		if err == nil {
			err = errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
		}
		if err == nil {
			listener, err = net.Listen("tcp4", address+":0")
		}
		opened <- err
	}()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	greet(t, listener)
	return host, listener.Addr()
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s (this test needs iproute2)", strings.Join(args, " "), err, out)
	}
}

// greet says "hello" to whoever connects, until the test ends.
func greet(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(c, "hello")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}
