package placement

import (
	"maps"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

// pair is one label.
type pair struct{ key, value string }

// class is what all nodes with the same labels have in common. The label that is a
// node's name does not count: it would make a class of every node.
type class struct {
	key    string // in classIDs
	labels map[string]string
	// pairs are the labels under which the nodes stand in byLabel. One without a zone
	// stands under the empty one.
	pairs []pair
	zone  int32
	nodes int
}

// noClass is the class of a slot that is not used.
const noClass = int32(-1)

// classes are those of all nodes, with their zones. What no node has is forgotten, so
// that there are never more than nodes.
type classes struct {
	ids   map[string]int32
	all   []class
	spare []int32

	zoneIDs    map[string]int32
	zoneNames  []string
	zoneSizes  []int // in classes
	spareZones []int32
}

func newClasses() classes { return classes{ids: map[string]int32{}, zoneIDs: map[string]int32{}} }

// join returns the class of a node with such labels, which counts it from now on.
func (c *classes) join(labels map[string]string) int32 {
	pairs := make([]pair, 0, len(labels)+1)
	for key, value := range labels {
		if key != wire.LabelNode {
			pairs = append(pairs, pair{key, value})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	var text strings.Builder
	for _, p := range pairs {
		text.WriteString(p.key + "\x00" + p.value + "\x00")
	}
	id, known := c.ids[text.String()]
	if !known {
		one := class{key: text.String(), labels: maps.Clone(labels), pairs: pairs}
		delete(one.labels, wire.LabelNode)
		zone := labels[wire.LabelZone]
		if zone == "" {
			one.pairs = append(one.pairs, pair{wire.LabelZone, ""})
		}
		one.zone = c.joinZone(zone)
		id = take(&c.all, &c.spare, one)
		c.ids[one.key] = id
	}
	c.all[id].nodes++
	return id
}

// leave is for a node that joined a class and is of it no more.
func (c *classes) leave(id int32) {
	if id == noClass {
		return
	}
	one := &c.all[id]
	if one.nodes--; one.nodes > 0 {
		return
	}
	delete(c.ids, one.key)
	if c.zoneSizes[one.zone]--; c.zoneSizes[one.zone] == 0 {
		delete(c.zoneIDs, c.zoneNames[one.zone])
		c.zoneNames[one.zone] = ""
		c.spareZones = append(c.spareZones, one.zone)
	}
	*one = class{}
	c.spare = append(c.spare, id)
}

func (c *classes) joinZone(name string) int32 {
	id, known := c.zoneIDs[name]
	if !known {
		id = take(&c.zoneNames, &c.spareZones, name)
		if int(id) == len(c.zoneSizes) {
			c.zoneSizes = append(c.zoneSizes, 0)
		}
		c.zoneIDs[name] = id
	}
	c.zoneSizes[id]++
	return id
}

// take puts an item into a spare place of all, or a new one, and returns where.
func take[T any](all *[]T, spare *[]int32, item T) int32 {
	if last := len(*spare) - 1; last >= 0 {
		at := (*spare)[last]
		*spare = (*spare)[:last]
		(*all)[at] = item
		return at
	}
	*all = append(*all, item)
	return int32(len(*all) - 1) //nolint:gosec // not more than nodes, which the node table bounds
}

// pairsOf returns the labels under which the nodes of a class stand in byLabel.
func (s *Snapshot) pairsOf(class int32) []pair {
	if class == noClass {
		return nil
	}
	return s.classes.all[class].pairs
}

// relabel moves a slot to another class.
func (s *Snapshot) relabel(slot, next int32) {
	old := s.classOf[slot]
	e := &s.entries[slot]
	if !e.node.barred() {
		relist(s, s.byLabel, slot, s.ranks[slot], s.pairsOf(old), s.pairsOf(next))
	}
	s.classOf[slot] = next
	s.classes.leave(old)
}
