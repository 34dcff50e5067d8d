package wire_test

import (
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

func TestSpeaks(t *testing.T) {
	for protocol := -3; protocol <= wire.Protocol+3; protocol++ {
		want := protocol > 0 && max(protocol-wire.Protocol, wire.Protocol-protocol) <= 1
		if wire.Speaks(protocol) != want {
			t.Errorf("protocol %d: %t", protocol, !want)
		}
	}
}
