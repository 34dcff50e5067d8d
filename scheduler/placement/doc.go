// Package placement decides which node starts an instance. It is pure: a
// decision follows from what is known of the nodes, the request, the time and
// one random number, and from nothing else. It has no clock and does no I/O.
//
// [Place] goes through three steps.
//
//  1. Filter. A node qualifies when it was heard of within
//     [wire.NodeLostAfter], is not draining, speaks our protocol, is not excluded
//     by the request, has the runtime, all labels that are asked for, and room in
//     every dimension. Idle instances are room: a node gives them back on demand.
//  2. Rank. A node's score is the larger share of its memory, CPU and instances
//     that is busy, plus a part of its measured load. Between equal scores the
//     node with less in use, idle instances included, comes first, so that idle
//     instances are evicted last. Nodes that are still equal stand on a ring and
//     a random point on it picks the first.
//  3. Choose among the nodes whose score is at most [LocalSlack] above that of
//     the best-ranked one. Those in the zones with fewest instances of the version
//     come first, so that it survives the loss of a zone. Of these, nodes that have
//     a stem ready and hold the code come first, then those with a stem, then those
//     with the code, then the rest; the best-ranked among equals wins. A stem counts
//     for more because starting a container takes longer than fetching code.
//
// A [Snapshot] keeps the nodes in that order, one list for each runtime, for each kind
// of stem and for each label, so a decision usually looks at a few nodes only, however
// many there are. Labels are compared once for all nodes that have the same. It knows the
// most room that any node has, so that a request for which there is none costs little as
// well.
package placement
