package placement

import "github.com/dayfly-run/dayfly/wire"

// manyClasses is up to how many classes are remembered without taking memory for it.
const manyClasses = 1024

// matches remembers of each class of nodes whether a query has looked at it, and whether
// it will do: a bit each.
type matches struct{ seen, fit []uint64 }

// forgetMatches is called when other classes will do than before.
func (q *query) forgetMatches() {
	clear(q.matches.seen)
	clear(q.matches.fit)
}

// fits reports whether the labels of a slot's node, and its zone, will do.
func (q *query) fits(slot int32) bool {
	if len(q.selector) == 0 && q.arch == "" && !q.zoned {
		return true
	}
	class := q.s.classOf[slot]
	if class == noClass {
		return false
	}
	word, bit := class/64, uint64(1)<<(class%64)
	if q.matches.seen[word]&bit == 0 {
		q.matches.seen[word] |= bit
		if q.takes(&q.s.classes.all[class]) {
			q.matches.fit[word] |= bit
		}
	}
	if q.matches.fit[word]&bit == 0 {
		return false
	}
	node, asked := q.selector[wire.LabelNode]
	return !asked || node == string(q.s.entries[slot].node.ID)
}

// takes reports whether nodes of a class will do, as far as that says.
func (q *query) takes(c *class) bool {
	if q.zoned && q.spread.in(c.zone) != q.level {
		return false
	}
	if q.arch != "" && c.labels[wire.LabelArch] != q.arch {
		return false
	}
	for key, value := range q.selector {
		if has, ok := c.labels[key]; key != wire.LabelNode && (!ok || has != value) {
			return false
		}
	}
	return true
}
