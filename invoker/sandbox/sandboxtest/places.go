package sandboxtest

import (
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
)

// Ranges that places of tests are in: the first is for documentation (RFC 5737) and
// counts as public, the second is private.
const (
	publicRange  = "198.51.100.0/24"
	privateRange = "192.168.253.0/24"
)

// Place returns two addresses of a range of four (a /30), public or private, of which
// no address of this machine is: the first for the host's end of a cable, the second
// for the far end. Small ranges and a choice of many let several runs of tests be on
// one machine, and cut off no other address.
func Place(public bool) (host, place netip.Addr, err error) {
	whole := netip.MustParsePrefix(privateRange)
	if public {
		whole = netip.MustParsePrefix(publicRange)
	}
	own, err := net.InterfaceAddrs()
	if err == nil {
		host, err = freeRange(whole, own)
	}
	return host, host.Next(), err
}

// freeRange returns the first usable address of a /30 in a /24 that overlaps none of
// those taken.
func freeRange(whole netip.Prefix, taken []net.Addr) (netip.Addr, error) {
	const ranges = 64
	var start [1]byte
	_, _ = rand.Read(start[:]) // it never fails
next:
	for i := range byte(ranges) {
		bytes := whole.Addr().As4()
		bytes[3] = (start[0] + i) % ranges * 4
		candidate := netip.PrefixFrom(netip.AddrFrom4(bytes), 30)
		for _, address := range taken {
			if p, err := netip.ParsePrefix(address.String()); err == nil && p.Overlaps(candidate) {
				continue next
			}
		}
		return candidate.Addr().Next(), nil
	}
	return netip.Addr{}, errors.New("every /30 of " + whole.String() + " is taken; `ip address` shows by whom")
}
