package placement

import (
	"cmp"
	"hash/fnv"

	"github.com/dayfly-run/dayfly/wire"
)

// Scores are in thousandths of a node: 0 is unused, 1000 is all of its scarcest
// resource busy.
const (
	// LocalSlack is by how much the score of a node that holds the code may
	// exceed that of the least-loaded node and still be preferred, and so may that
	// of a node in a zone with fewer instances. Too little throws cached code and
	// stems away, too much makes hot spots. The table "On a trace" of
	// bench/README.md decided: 200 has nearly all of the hits that there are to have,
	// for a sixth more on the busiest node when the cluster is fairly idle, and for
	// two hundredths when it is half busy.
	LocalSlack = 200
	// LoadWeight is what a load average of one per core adds to a score. It is
	// small because the measured load lags by a minute, and not zero because
	// reservations do not see what else the machine does.
	LoadWeight = 125
	// MaxLoad is where more measured load stops to count.
	MaxLoad = 4.0

	fullScore = 1000
	// maxScore only keeps nonsense, such as a node with more in use than it
	// has, within the integer.
	maxScore = 1_000_000
)

// rank is a node's place among the others; smaller is better. Ties in score
// and held are broken by where ring stands, see [Snapshot.before].
type rank struct {
	score int32
	held  int32
	ring  uint64
}

func rankOf(n *Node, ring uint64) rank {
	load := 0.0
	if n.Load > 0 { // false for NaN, too
		load = min(n.Load, MaxLoad)
	}
	score := share(n.busy(), n.Capacity) + LoadWeight*load
	return rank{
		score: int32(min(score, maxScore)),
		held:  int32(share(n.Reserved, n.Capacity)),
		ring:  ring,
	}
}

// share returns how much of capacity is used, in thousandths, in the dimension
// where that is most.
func share(used, capacity wire.Resources) float64 {
	most := max(
		shareOf(used.MemoryBytes, capacity.MemoryBytes),
		shareOf(used.CPUMillis, capacity.CPUMillis),
		shareOf(int64(used.Instances), int64(capacity.Instances)),
	)
	return min(most, maxScore)
}

func shareOf(used, capacity int64) float64 {
	switch {
	case used <= 0:
		return 0
	case capacity <= 0:
		return maxScore
	}
	return float64(used) / float64(capacity) * fullScore
}

// ringOf gives a node its fixed point on the ring.
func ringOf(id wire.NodeID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	// FNV leaves similar names close together; this spreads them (the
	// finalizer of SplitMix64).
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// compareLoad orders by how loaded nodes are; 0 is a tie.
func (r rank) compareLoad(o rank) int {
	if c := cmp.Compare(r.score, o.score); c != 0 {
		return c
	}
	return cmp.Compare(r.held, o.held)
}
