package hostnet

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// assigned is what the kernel says of a link address that somebody gave.
const assigned = "3"

// Steady lets a bridge keep its link address. One that was given none takes the lowest
// of its ports', which changes as containers come and go: then what the others send
// through it is lost until they look for it again, for up to a minute. A bridge that is
// not there is no error: its engine has a network namespace of its own. It is safe for
// concurrent use and idempotent.
func Steady(bridge string) error {
	kind, err := os.ReadFile(filepath.Join("/sys/class/net", bridge, "addr_assign_type"))
	if errors.Is(err, os.ErrNotExist) || err == nil && string(bytes.TrimSpace(kind)) == assigned {
		return nil
	}
	link, found := netlink.LinkByName(bridge)
	if errors.As(found, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err := errors.Join(err, found); err != nil {
		return fmt.Errorf("look at bridge %s: %w", bridge, err)
	}
	address := link.Attrs().HardwareAddr
	if bytes.Equal(address, make(net.HardwareAddr, len(address))) { // it has no ports
		address = RandomLinkAddress()
	}
	if err := netlink.LinkSetHardwareAddr(link, address); err != nil {
		return fmt.Errorf("keep the link address of bridge %s: %w", bridge, err)
	}
	return nil
}

// RandomLinkAddress returns a link address of the kind that nobody sells.
func RandomLinkAddress() net.HardwareAddr {
	address := make(net.HardwareAddr, 6)
	_, _ = rand.Read(address) // it never fails
	address[0] = address[0]&^1 | 2
	return address
}
