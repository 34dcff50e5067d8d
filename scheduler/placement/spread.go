package placement

import (
	"slices"

	"github.com/dayfly-run/dayfly/wire"
)

// spread is how many instances of a version there are, and where. Zones without any
// are not listed.
type spread struct {
	total int
	zones []zoneCount
}

type zoneCount struct {
	zone int32
	n    int
}

// in returns how many there are in a zone.
func (p spread) in(zone int32) int {
	for _, z := range p.zones {
		if z.zone == zone {
			return z.n
		}
	}
	return 0
}

// count adds instances of a version in a zone; what is gone takes no room.
func (s *Snapshot) count(version wire.VersionID, zone int32, by int) {
	p := s.instances[version]
	p.total += by
	at := slices.IndexFunc(p.zones, func(z zoneCount) bool { return z.zone == zone })
	if at < 0 {
		at = len(p.zones)
		p.zones = append(p.zones, zoneCount{zone: zone})
	}
	if p.zones[at].n += by; p.zones[at].n == 0 {
		p.zones = slices.Delete(p.zones, at, at+1)
	}
	if p.total == 0 && len(p.zones) == 0 {
		delete(s.instances, version)
		return
	}
	s.instances[version] = p
}

func (s *Snapshot) countAll(versions map[wire.VersionID]int, class int32, sign int) {
	if len(versions) == 0 {
		return
	}
	zone := s.classes.all[class].zone
	for version, n := range versions {
		if n != 0 {
			s.count(version, zone, sign*n)
		}
	}
}

// levels lists, in rising order, how many instances of the version zones have. It is
// empty where all have as many.
func (q *query) levels(into []int) []int {
	zones := len(q.s.classes.zoneIDs)
	if zones < 2 || len(q.spread.zones) == 0 {
		return into
	}
	if zones > len(q.spread.zones) {
		into = append(into, 0)
	}
	for _, z := range q.spread.zones {
		if at, found := slices.BinarySearch(into, z.n); !found {
			into = slices.Insert(into, at, z.n)
		}
	}
	if len(into) == 1 {
		return into[:0]
	}
	return into
}

// restrict leaves only the zones that have so many instances of the version, and
// returns the order in which to look for nodes there: that of the zone, if there is one
// only and it has fewer nodes than order.
func (q *query) restrict(level int, order []int32) []int32 {
	q.zoned, q.level = true, level
	q.forgetMatches()
	only, n := none, 0
	for _, z := range q.spread.zones {
		if z.n == level {
			only, n = z.zone, n+1
		}
	}
	if level == 0 {
		if n += len(q.s.classes.zoneIDs) - len(q.spread.zones); n == 1 && only == none {
			only = q.unused()
		}
	}
	if n != 1 || only == none {
		return order
	}
	if in := q.s.byLabel[pair{wire.LabelZone, q.s.classes.zoneNames[only]}]; len(in) < len(order) {
		return in
	}
	return order
}

// unused returns the only zone without an instance of the version.
func (q *query) unused() int32 {
	for _, zone := range q.s.classes.zoneIDs {
		if q.spread.in(zone) == 0 {
			return zone
		}
	}
	return none
}
