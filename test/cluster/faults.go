package cluster

import (
	"fmt"
	"strconv"
)

const card = "eth0"

// Way is the direction in which packets are lost, as the host that loses them sees it.
type Way int

// The ways of a [Host.Cut].
const (
	Both Way = iota
	In
	Out
)

func (w Way) String() string { return [...]string{"both ways", "in", "out"}[w] }

// Cut loses the packets between the host and some others, without a word to either, until
// [Host.Mend].
func (h *Host) Cut(way Way, from ...*Host) error {
	for _, peer := range from {
		for _, chain := range []struct {
			way        Way
			name, side string
		}{{In, "INPUT", "--source"}, {Out, "OUTPUT", "--destination"}} {
			if way != Both && way != chain.way {
				continue
			}
			if err := h.run("iptables", "-w", "-I", chain.name, chain.side, peer.IP.String(), "--jump", "DROP"); err != nil {
				return err
			}
		}
	}
	return nil
}

// Mend undoes all cuts of the host.
func (h *Host) Mend() error {
	for _, chain := range []string{"INPUT", "OUTPUT"} {
		if err := h.run("iptables", "-w", "--flush", chain); err != nil {
			return err
		}
	}
	return nil
}

// Slow gives the host a line that sends so many kilobits a second, and loses what waits
// longer than 400 ms, until [Host.Fast].
func (h *Host) Slow(kilobits int) error {
	if kilobits <= 0 {
		return fmt.Errorf("a line of %d kbit/s", kilobits)
	}
	return h.run("tc", "qdisc", "replace", "dev", card, "root", "tbf",
		"rate", strconv.Itoa(kilobits)+"kbit", "burst", "16kb", "latency", "400ms")
}

// Fast undoes [Host.Slow].
func (h *Host) Fast() error { return h.run("tc", "qdisc", "del", "dev", card, "root") }
