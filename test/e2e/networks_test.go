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
	public, private := greeter(t, "p", true), greeter(t, "q", false)
	host, err := net.Listen("tcp4", private.host+":0")
	if err != nil {
		t.Fatal(err)
	}
	greet(t, host)
	cases := []struct {
		network, to string
		at          net.Addr
		want        bool
	}{
		{"none", "a public address", public.Addr(), false},
		{"none", "the host", host.Addr(), false},
		{"egress", "a public address", public.Addr(), true},
		{"egress", "a private address", private.Addr(), false},
		{"egress", "the host", host.Addr(), false},
		{"open", "a public address", public.Addr(), true},
		{"open", "a private address", private.Addr(), true},
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

// place is a network namespace at the far end of a cable, which a server there can be
// reached through.
type place struct {
	net.Listener
	host string // this machine's address there
	name string
}

// openPlace makes a place that counts as public, or as private. The caller closes it.
func openPlace(letter string, public bool) (p *place, err error) {
	hostEnd, farEnd, err := sandboxtest.Place(public)
	if err != nil {
		return nil, err
	}
	p = &place{host: hostEnd.String(), name: letter + world.mark} // an interface's name has at most 15 bytes
	if err := ip("netns", "add", p.name); err != nil {
		return nil, err
	}
	for _, command := range []string{
		"link add NAME type veth peer name eth0 netns NAME", "address add " + p.host + "/30 dev NAME", "link set NAME up",
		"-n NAME address add " + farEnd.String() + "/30 dev eth0", "-n NAME link set eth0 up",
	} {
		if err := ip(strings.Fields(strings.ReplaceAll(command, "NAME", p.name))...); err != nil {
			return nil, errors.Join(err, ip("netns", "del", p.name))
		}
	}
	opened := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
		f, err := os.Open("/var/run/netns/" + p.name)
		if err == nil {
			err = errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
		}
		if err == nil {
			p.Listener, err = net.Listen("tcp4", farEnd.String()+":0")
		}
		opened <- err
	}()
	if err := <-opened; err != nil {
		return nil, errors.Join(err, ip("netns", "del", p.name))
	}
	return p, nil
}

// Close ends the listener and removes the namespace, and the cable with it.
func (p *place) Close() error {
	return errors.Join(p.Listener.Close(), ip("netns", "del", p.name))
}

// greeter is a place of one test, which says "hello".
func greeter(t *testing.T, letter string, public bool) *place {
	t.Helper()
	p, err := openPlace(letter, public)
	if err != nil {
		t.Fatal(err)
	}
	greet(t, p.Listener)
	t.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return p
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s (these tests need iproute2)", strings.Join(args, " "), err, out)
	}
	return nil
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
