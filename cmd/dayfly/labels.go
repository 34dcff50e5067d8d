package main

import (
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

// labels reads what the operator says of this node.
func (c *config) labels() (map[string]string, error) {
	labels := map[string]string{}
	for _, text := range c.Labels {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, wire.Errorf(wire.CodeInvalid, "--label %s: write key=value, as in --label disk=ssd", text)
		}
		if err := wire.CheckLabel(key, value); err != nil {
			return nil, wire.Errorf(wire.CodeInvalid, "--label %s: %s", text, err)
		}
		if other, twice := labels[key]; twice && other != value {
			return nil, wire.Errorf(wire.CodeInvalid, "--label %s: the node has %s=%s already; a label has one value", text, key, other)
		}
		labels[key] = value
	}
	if c.Zone != "" {
		if err := wire.CheckLabel(wire.LabelZone, c.Zone); err != nil {
			return nil, wire.Errorf(wire.CodeInvalid, "--zone %s: %s", c.Zone, err)
		}
		if other, twice := labels[wire.LabelZone]; twice && other != c.Zone {
			return nil, wire.Errorf(wire.CodeInvalid, "--zone %s: --label %s=%s says another; give one of the two", c.Zone, wire.LabelZone, other)
		}
		labels[wire.LabelZone] = c.Zone
	}
	if most := wire.MaxLabels - len(wire.ReservedLabels()); len(labels) > most {
		return nil, wire.Errorf(wire.CodeInvalid, "--label: %d labels are too many; at most %d are allowed", len(labels), most)
	}
	return labels, nil
}
