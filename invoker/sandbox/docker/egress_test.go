package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

func command(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s (this test needs root, iproute2 and iptables)", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// place makes a network namespace at the far end of a cable, with servers that
// say "hello" on TCP ports 80 and 53 and UDP port 53. It returns the addresses of
// the cable's ends.
func place(t *testing.T, letter string, public bool) (host, address string) {
	t.Helper()
	hostEnd, farEnd, err := sandboxtest.Place(public)
	must(t, err)
	host, address = hostEnd.String(), farEnd.String()
	name := "df" + letter + strconv.Itoa(os.Getpid())
	command(t, "ip", "netns", "add", name)
	t.Cleanup(func() { command(t, "ip", "netns", "del", name) }) // and the cable with it
	command(t, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
	command(t, "ip", "address", "add", host+"/30", "dev", name)
	command(t, "ip", "link", "set", name, "up")
	command(t, "ip", "-n", name, "address", "add", address+"/30", "dev", "eth0")
	command(t, "ip", "-n", name, "link", "set", "eth0", "up")
	command(t, "ip", "-n", name, "route", "add", "default", "via", host)
	for _, port := range []string{":80", ":53"} {
		l := within(t, name, func() (net.Listener, error) { return net.Listen("tcp4", address+port) })
		greet(t, l)
	}
	echo(t, within(t, name, func() (net.PacketConn, error) { return net.ListenPacket("udp4", address+":53") }))
	return host, address
}

// within calls open on a thread inside a network namespace.
func within[T any](t *testing.T, name string, open func() (T, error)) T {
	t.Helper()
	var opened T
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
		f, err := os.Open("/var/run/netns/" + name)
		if err == nil {
			err = errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
		}
		if err == nil {
			opened, err = open()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return opened
}

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
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

func echo(t *testing.T, c net.PacketConn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 64)
		for {
			n, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buffer[:n], from)
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
}

// withEgress makes a sandbox for egress, and checks in the end that nothing of it
// is left on the host.
func withEgress(t *testing.T) *Sandbox {
	t.Helper()
	s := open(t, "test/"+uuid.NewString())
	if err := s.EnsureRoot(t.Context(), sandboxtest.Root(true)); err != nil {
		t.Fatal(err)
	}
	if left := egressTraces(t, s.egress); len(left) != 0 {
		t.Fatalf("before the start there is %q", left)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if left := egressTraces(t, s.egress); len(left) != 0 {
			t.Errorf("on the host is left %q", left)
		}
	})
	return s
}

// egressTraces lists rules, interfaces and networks that bear the egress's names.
func egressTraces(t *testing.T, e *egress) (found []string) {
	t.Helper()
	names := []string{e.bridge, e.forward, e.input, e.name}
	everything := command(t, "iptables-save") + command(t, "ip", "-o", "link") + command(t, "ip", "route") +
		command(t, "docker", "network", "ls")
	for line := range strings.Lines(everything) {
		for _, name := range names {
			if strings.Contains(line, name) {
				found = append(found, line)
				break
			}
		}
	}
	return found
}

// dial asks from inside a container with egress and returns what each address said.
func dial(t *testing.T, s *Sandbox, addresses ...string) map[string]string {
	t.Helper()
	spec := sandboxtest.Spec(t, true, append([]string{"/probe/probe", "dial"}, addresses...))
	spec.Network = sandbox.NetworkEgress
	exit, log := sandboxtest.Finish(t, s, spec)
	said := map[string]string{}
	for line := range strings.Lines(log) {
		if rest, ok := strings.CutPrefix(line, "dial "); ok {
			address, answer, _ := strings.Cut(strings.TrimSpace(rest), " ")
			said[address] = answer
		}
	}
	if exit.Code != 0 || len(said) != len(addresses) {
		t.Fatalf("%+v: %s", exit, log)
	}
	return said
}

func reached(said string) bool { return said == "reached: hello" }

// TestEgress asks public and private places, the host, other containers and a
// name server.
func TestEgress(t *testing.T) {
	publicHost, publicPlace := place(t, "p", true)
	privateHost, privatePlace := place(t, "q", false)
	s := withEgress(t)
	resolvers := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolvers, []byte("search example\nnameserver ::1\nnameserver 127.0.0.53\nnameserver "+privatePlace+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.egress.resolvers = []string{filepath.Join(t.TempDir(), "none"), resolvers}

	// The host answers on all of its addresses.
	host, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	greet(t, host)
	_, port, err := net.SplitHostPort(host.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	at := func(address string) string { return "tcp://" + net.JoinHostPort(address, port) }

	server := serve(t, s)
	public, private, names := "tcp://"+publicPlace+":80", "tcp://"+privatePlace+":80", "://"+privatePlace+":53"
	said := dial(t, s, public, private, "tcp"+names, "udp"+names, at(publicHost), at(privateHost), at(gateway(t, s)),
		"tcp://"+server+":8000", "tcp://169.254.169.254:80")
	for address, want := range map[string]bool{
		public: true, private: false, "tcp" + names: true, "udp" + names: true,
		at(publicHost): false, at(privateHost): false, at(gateway(t, s)): false,
		"tcp://" + server + ":8000": false, "tcp://169.254.169.254:80": false,
	} {
		if reached(said[address]) != want {
			t.Errorf("%s: %s, want reached %v", address, said[address], want)
		}
	}

	// It is the rules that refuse: without them all can be reached, and they come
	// back when somebody took them away.
	for _, jump := range s.egress.jumps() {
		command(t, "iptables", append([]string{"--wait", "-D"}, jump...)...)
	}
	for address, answer := range dial(t, s, private, at(publicHost)) {
		if !reached(answer) {
			t.Errorf("without rules, %s: %s", address, answer)
		}
	}
	s.egress.seen = time.Time{} // as after egressFresh
	for address, answer := range dial(t, s, private, at(publicHost)) {
		if reached(answer) {
			t.Errorf("with the rules back, %s: %s", address, answer)
		}
	}
}

// serve starts a container with egress that listens on port 8000, and returns its
// address.
func serve(t *testing.T, s *Sandbox) string {
	t.Helper()
	spec := sandboxtest.Spec(t, true, []string{"/probe/probe", "serve", "8000"})
	spec.Network = sandbox.NetworkEgress
	c := sandboxtest.Start(t, s, spec)
	sandboxtest.AwaitLog(t, spec, "ready")
	if log := sandboxtest.Log(t, spec); strings.Contains(log, "fe80") || strings.Contains(log, "fd") {
		t.Errorf("it has IPv6, which no rule bounds: %s", log)
	}
	info, err := s.client.ContainerInspect(t.Context(), c.(*instance).id)
	if err != nil {
		t.Fatal(err)
	}
	return info.NetworkSettings.Networks[s.egress.name].IPAddress
}

func gateway(t *testing.T, s *Sandbox) string {
	t.Helper()
	info, err := s.client.NetworkInspect(t.Context(), s.egress.name, network.InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info.IPAM.Config[0].Gateway
}

// TestEgressEnsure makes the network from many sides at once, twice.
func TestEgressEnsure(t *testing.T) {
	s := withEgress(t)
	for range 2 {
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if name, err := s.egress.ensure(t.Context()); err != nil || name != s.egress.name {
					t.Errorf("%q, %v", name, err)
				}
			})
		}
		group.Wait()
		rules := command(t, "iptables-save", "-t", "filter")
		if n := strings.Count(rules, "-j "+s.egress.forward); n != 1 {
			t.Errorf("%d jumps to %s", n, s.egress.forward)
		}
		if n := strings.Count(rules, "-A "+s.egress.forward+" -d 10.0.0.0/8"); n != 1 {
			t.Errorf("%d rules of a kind", n)
		}
		if n := strings.Count(command(t, "docker", "network", "ls"), s.egress.name); n != 1 {
			t.Errorf("%d networks", n)
		}
		s.egress.seen = time.Time{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.egress.ensure(ctx); !errors.Is(err, context.Canceled) && !strings.Contains(fmt.Sprint(err), "canceled") {
		t.Errorf("a context that is done gives %v", err)
	}
}

// TestEgressRulesOutlast: the rules stay while a container uses the network.
func TestEgressRulesOutlast(t *testing.T) {
	s := withEgress(t)
	spec := sandboxtest.Spec(t, true, sandboxtest.Wait())
	spec.Network = sandbox.NetworkEgress
	c, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.egress.remove(t.Context()); err == nil {
		t.Error("a network in use was removed")
	}
	if rules := command(t, "iptables-save", "-t", "filter"); strings.Count(rules, "-j "+s.egress.input)+strings.Count(rules, "-j "+s.egress.forward) != 2 {
		t.Errorf("rules are missing: %s", rules)
	}
	// A crash: another sandbox of the same owner sweeps all of it.
	again := open(t, s.owner)
	defer again.client.Close()
	if n, err := again.Sweep(t.Context()); err != nil || n != 1 {
		t.Errorf("Sweep removed %d; %v", n, err)
	}
	if left := egressTraces(t, s.egress); len(left) != 0 {
		t.Errorf("on the host is left %q", left)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNameServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stub := file("stub", "nameserver 127.0.0.53\noptions edns0\n")
	full := file("full", "# nameserver 9.9.9.9\nnameserver 10.0.0.2\nnameserver \noptions x\nnameserver 2001:db8::1\nnameserver x; rm\n nameserver 1.1.1.1 \n")
	for _, test := range []struct {
		files []string
		want  string
	}{
		{[]string{stub, full}, "[10.0.0.2 1.1.1.1]"},
		{[]string{full, stub}, "[10.0.0.2 1.1.1.1]"},
		{[]string{stub, filepath.Join(dir, "none")}, "[]"},
	} {
		if got := fmt.Sprint(nameServers(test.files...)); got != test.want {
			t.Errorf("%v: %s, want %s", test.files, got, test.want)
		}
	}
}
