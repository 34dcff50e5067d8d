package sandboxtest

import (
	"net"
	"net/netip"
	"testing"
)

func TestFreeRange(t *testing.T) {
	t.Parallel()
	whole := netip.MustParsePrefix("198.51.100.0/24")
	taken := []net.Addr{&net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}, &net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}
	seen := map[netip.Addr]bool{}
	for range 64 {
		host, err := freeRange(whole, taken)
		if err != nil || seen[host] || !whole.Contains(host) || host.As4()[3]%4 != 1 {
			t.Fatalf("beside %d it takes %s; %v", len(taken), host, err)
		}
		seen[host] = true
		taken = append(taken, &net.IPNet{IP: host.AsSlice(), Mask: net.CIDRMask(30, 32)})
	}
	if host, err := freeRange(whole, taken); err == nil {
		t.Errorf("of none it takes %s", host)
	}
}
