package placement

import (
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Touch notes that a node was heard of which nothing changed but its measured load,
// which costs less than [Snapshot.Put]: most heartbeats say no more. It reports whether
// the node is known.
func (s *Snapshot) Touch(id wire.NodeID, seen time.Time, load float64) bool {
	slot, known := s.slots[id]
	if !known {
		return false
	}
	n := s.entries[slot].node
	n.LastSeen = seen
	if n.Load == load {
		s.entries[slot].node = n
		return true
	}
	n.Load = load
	s.store(slot, n)
	return true
}
