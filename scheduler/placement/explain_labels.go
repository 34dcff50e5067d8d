package placement

import (
	"maps"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

// maxNamed bounds the labels that an explanation lists.
const maxNamed = 8

// selective reports whether not every node's labels will do.
func (q *query) selective() bool { return len(q.selector) > 0 || q.arch != "" }

// asked writes the labels that a node must have.
func (q *query) asked() string {
	all := maps.Clone(q.selector)
	if all == nil {
		all = map[string]string{}
	}
	if q.arch != "" {
		all[wire.LabelArch] = q.arch
	}
	return wire.ShowLabels(all)
}

// explainLabels says which labels are asked for that no node has; nil when a node has
// all of them.
func (q *query) explainLabels(version wire.VersionID) *wire.Error {
	if !q.selective() || q.anyHas(q.takes) && q.namedIsThere() {
		return nil
	}
	err := wire.Errorf(wire.CodeNoCapacity, "no connected node can take %s: %s", version, q.missing())
	err.RetryAfterMillis = hopelessPause.Milliseconds()
	return err
}

func (q *query) anyHas(what func(*class) bool) bool {
	for i := range q.s.classes.all {
		if c := &q.s.classes.all[i]; c.nodes > 0 && what(c) {
			return true
		}
	}
	return false
}

// namedIsThere reports whether the node that is asked for by name is there and has the
// other labels as well.
func (q *query) namedIsThere() bool {
	name, asked := q.selector[wire.LabelNode]
	if !asked {
		return true
	}
	slot, known := q.s.slots[wire.NodeID(name)]
	return known && q.fits(slot)
}

// missing names the first label that no node has, and what nodes have instead.
func (q *query) missing() string {
	if q.arch != "" && !q.anyHas(func(c *class) bool { return c.labels[wire.LabelArch] == q.arch }) {
		return "its code was made for " + q.arch + ", and nodes have " + q.values(wire.LabelArch) + "; add a node of that kind, or build it on one of these"
	}
	for _, key := range slices.Sorted(maps.Keys(q.selector)) {
		value := q.selector[key]
		if key == wire.LabelNode {
			if _, known := q.s.slots[wire.NodeID(value)]; !known {
				return "nodeSelector asks for the node " + value + ", which is not connected; start it, or change nodeSelector"
			}
			continue
		}
		if q.anyHas(func(c *class) bool { has, ok := c.labels[key]; return ok && has == value }) {
			continue
		}
		has := q.values(key)
		if has == "" {
			return "no node has a label " + key + "; there are " + q.keys() + remedy(key, value)
		}
		return "no node has " + key + "=" + value + ", they have " + has + remedy(key, value)
	}
	return "no node has all of " + q.asked() + "; give one of them the labels that it lacks, or change nodeSelector"
}

// remedy says how a node with a label comes to be.
func remedy(key, value string) string {
	how := "start an invoker with --label " + key + "=" + value
	switch key {
	case wire.LabelZone:
		how = "start an invoker with --zone " + value
	case wire.LabelArch, wire.LabelSandbox:
		how = "add such a node"
	}
	return "; " + how + ", or change nodeSelector"
}

// values lists what nodes have as the value of a label.
func (q *query) values(key string) string {
	found := map[string]bool{}
	for i := range q.s.classes.all {
		if value, ok := q.s.classes.all[i].labels[key]; ok {
			found[key+"="+value] = true
		}
	}
	return named(found)
}

// keys lists the labels that nodes have.
func (q *query) keys() string {
	found := map[string]bool{wire.LabelNode: true}
	for i := range q.s.classes.all {
		for key := range q.s.classes.all[i].labels {
			found[key] = true
		}
	}
	return named(found)
}

// named writes the first of some words, in order.
func named(words map[string]bool) string {
	list := slices.Sorted(maps.Keys(words))
	if len(list) > maxNamed {
		list = append(list[:maxNamed], "others")
	}
	if last := len(list) - 1; last > 0 {
		return strings.Join(list[:last], ", ") + " and " + list[last]
	}
	return strings.Join(list, "")
}
