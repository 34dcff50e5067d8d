package wire

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// WholeEvery is how often a node says all of its state although nobody asked.
const WholeEvery = 10 * time.Second

// NodeWord is what a node publishes of itself: all of its state, or what changed since
// its word before. One of the two is set.
type NodeWord struct {
	Whole *NodeState `json:"whole,omitempty"`
	Delta *NodeDelta `json:"delta,omitempty"`
}

// RunAndEnd returns the run that says the word, and whether it is the run's last.
func (w NodeWord) RunAndEnd() (run string, last bool) {
	switch {
	case w.Whole != nil:
		return w.Whole.Run, w.Whole.Stopping
	case w.Delta != nil:
		return w.Delta.Run, false
	}
	return "", false
}

// NodeDelta is a node's word that follows on another one: Seq is one more than that
// one's, in the same run. Who missed that one asks for all of the state, see
// [NodeAskSubject]. The node's name is in the subject.
type NodeDelta struct {
	Run  string    `json:"run"`
	Seq  uint64    `json:"seq"`
	At   time.Time `json:"at,omitzero"`
	Load float64   `json:"load,omitempty"`
	// Change is nil when nothing else changed, as between most heartbeats.
	Change *NodeChange `json:"change,omitempty"`
}

// NodeChange is what of a [NodeState] changes within a run, where it did: what is there
// now, and the keys of what is not any more.
type NodeChange struct {
	Reserved     *Resources      `json:"reserved,omitempty"`
	Idle         *Resources      `json:"idle,omitempty"`
	Draining     *bool           `json:"draining,omitempty"`
	Versions     []VersionOnNode `json:"versions,omitempty"`
	VersionsGone []VersionID     `json:"versionsGone,omitempty"`
	Ran          []Ran           `json:"ran,omitempty"`
	RanGone      []VersionID     `json:"ranGone,omitempty"`
	Stems        map[string]int  `json:"stems,omitempty"`
	StemsGone    []string        `json:"stemsGone,omitempty"`
	Codes        []Digest        `json:"codes,omitempty"`
	CodesGone    []Digest        `json:"codesGone,omitempty"`
	// Settled lists the leases that were settled since the word before; old ones are
	// left out without a word.
	Settled []LeaseID `json:"settled,omitempty"`
}

// LastWord is the last word of a run, said by somebody who knows nothing else of the
// node. It comes after any other word of the run.
func LastWord(id NodeID, run string) NodeWord {
	return NodeWord{Whole: &NodeState{Node: id, Run: run, Seq: math.MaxUint64, Protocol: Protocol, Stopping: true}}
}

// NodeOfState is the node whose [NodeStateSubject] it is.
func NodeOfState(subject string) (NodeID, error) {
	rest, ours := strings.CutPrefix(subject, "dayfly.node.")
	id, state := strings.CutSuffix(rest, ".state")
	if !ours || !state || !ValidName(id) {
		return "", fmt.Errorf("no node publishes on %q", subject)
	}
	return NodeID(id), nil
}

// Sort puts the state's lists into their order, which [Diff] and [NodeDelta.Apply] rely
// on. It sorts in place.
func (s *NodeState) Sort() {
	slices.SortStableFunc(s.Versions, func(a, b VersionOnNode) int { return a.Version.Compare(b.Version) })
	slices.SortStableFunc(s.Ran, func(a, b Ran) int { return a.Version.Compare(b.Version) })
	slices.Sort(s.Codes)
	slices.Sort(s.Settled)
}

// rest is the part of the state that a delta does not carry.
func (s NodeState) rest() NodeState {
	s.Seq, s.At, s.Load = 0, time.Time{}, 0
	s.Reserved, s.Idle, s.Draining = Resources{}, Resources{}, false
	s.Versions, s.Ran, s.Stems, s.Codes, s.Settled = nil, nil, nil, nil, nil
	return s
}

// Diff returns what leads from one state to the next one of the same run; both are
// sorted. It is nil when no delta can say it, and the next state must be told whole.
func Diff(old, next *NodeState) *NodeDelta {
	if next.Seq != old.Seq+1 || !reflect.DeepEqual(old.rest(), next.rest()) {
		return nil
	}
	d := &NodeDelta{Run: next.Run, Seq: next.Seq, At: next.At, Load: next.Load}
	var c NodeChange
	c.Reserved = changed(old.Reserved, next.Reserved)
	c.Idle = changed(old.Idle, next.Idle)
	c.Draining = changed(old.Draining, next.Draining)
	c.Versions, c.VersionsGone = diffLists(old.Versions, next.Versions, keyOfVersion, VersionID.Compare)
	c.Ran, c.RanGone = diffLists(old.Ran, next.Ran, keyOfRan, VersionID.Compare)
	c.Codes, c.CodesGone = diffLists(old.Codes, next.Codes, itself, cmp.Compare)
	c.Settled, _ = diffLists(old.Settled, next.Settled, itself, cmp.Compare)
	for kind, n := range next.Stems {
		if had, ok := old.Stems[kind]; !ok || had != n {
			if c.Stems == nil {
				c.Stems = map[string]int{}
			}
			c.Stems[kind] = n
		}
	}
	for kind := range old.Stems {
		if _, ok := next.Stems[kind]; !ok {
			c.StemsGone = append(c.StemsGone, kind)
		}
	}
	slices.Sort(c.StemsGone)
	if !reflect.ValueOf(c).IsZero() {
		d.Change = &c
	}
	return d
}

// Apply returns the state that follows on old, which is sorted and of the word before.
// It shares with old what did not change, and changes nothing of it. Settled are only
// the new ones.
func (d *NodeDelta) Apply(old NodeState) NodeState {
	s := old
	s.Seq, s.At, s.Load, s.Settled = d.Seq, d.At, d.Load, nil
	c := d.Change
	if c == nil {
		return s
	}
	s.Settled = c.Settled
	set(&s.Reserved, c.Reserved)
	set(&s.Idle, c.Idle)
	set(&s.Draining, c.Draining)
	s.Versions = applyLists(s.Versions, c.Versions, c.VersionsGone, keyOfVersion, VersionID.Compare)
	s.Ran = applyLists(s.Ran, c.Ran, c.RanGone, keyOfRan, VersionID.Compare)
	s.Codes = applyLists(s.Codes, c.Codes, c.CodesGone, itself, cmp.Compare)
	if len(c.Stems)+len(c.StemsGone) > 0 {
		stems := make(map[string]int, len(s.Stems)+len(c.Stems))
		maps.Copy(stems, s.Stems)
		maps.Copy(stems, c.Stems)
		for _, kind := range c.StemsGone {
			delete(stems, kind)
		}
		s.Stems = stems
	}
	return s
}

func keyOfVersion(v VersionOnNode) VersionID { return v.Version }
func keyOfRan(r Ran) VersionID               { return r.Version }
func itself[T any](t T) T                    { return t }

// changed returns next if it is another value.
func changed[T comparable](old, next T) *T {
	if old == next {
		return nil
	}
	return &next
}

func set[T any](field, to *T) {
	if to != nil {
		*field = *to
	}
}

// diffLists compares two lists in the order of their keys: it returns the items of next
// that old has not, or has otherwise, and the keys that only old has.
func diffLists[T comparable, K any](old, next []T, key func(T) K, compare func(a, b K) int) (items []T, gone []K) {
	for len(old) > 0 || len(next) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(next) == 0:
			order = -1
		default:
			order = compare(key(old[0]), key(next[0]))
		}
		if order < 0 {
			gone = append(gone, key(old[0]))
		} else if order > 0 || old[0] != next[0] {
			items = append(items, next[0])
		}
		if order <= 0 {
			old = old[1:]
		}
		if order >= 0 {
			next = next[1:]
		}
	}
	return items, gone
}

// applyLists is the way back: old with the items put in and without the keys that are
// gone.
func applyLists[T, K any](old, items []T, gone []K, key func(T) K, compare func(a, b K) int) []T {
	if len(items) == 0 && len(gone) == 0 {
		return old
	}
	list := make([]T, 0, len(old)+len(items))
	for _, item := range old {
		k := key(item)
		for len(items) > 0 && compare(key(items[0]), k) < 0 {
			list, items = append(list, items[0]), items[1:]
		}
		for len(gone) > 0 && compare(gone[0], k) < 0 {
			gone = gone[1:]
		}
		switch {
		case len(items) > 0 && compare(key(items[0]), k) == 0:
			list, items = append(list, items[0]), items[1:]
		case len(gone) == 0 || compare(gone[0], k) != 0:
			list = append(list, item)
		}
	}
	return append(list, items...)
}
