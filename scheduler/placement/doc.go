// Package placement decides which node starts an instance. It is pure: a
// decision follows from what is known of the nodes, the request, the time and
// one random number, and from nothing else. It has no clock and does no I/O.
//
// [Place] goes through three steps.
//
//  1. Filter. A node qualifies when it was heard of within
//     [wire.NodeLostAfter], is not draining, is not excluded by the request, has
//     the runtime, and has room in every dimension. Idle instances are room: a
//     node gives them back on demand.
//  2. Rank. A node's score is the larger share of its memory, CPU and instances
//     that is busy, plus a part of its measured load. Between equal scores the
//     node with less in use, idle instances included, comes first, so that idle
//     instances are evicted last. Nodes that are still equal stand on a ring and
//     a random point on it picks the first.
//  3. Prefer the code. The best-ranked node that holds the code wins over the
//     best-ranked node of all when its score is at most [LocalSlack] higher.
//
// A [Snapshot] keeps the nodes in that order, one list for each runtime, so a
// decision usually looks at a few nodes only, however many there are.
package placement
