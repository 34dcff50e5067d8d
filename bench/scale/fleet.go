package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// mode is how the simulated nodes speak.
type mode string

const (
	// wholes: all of the state at every heartbeat.
	wholes mode = "whole"
	// idle: heartbeats of nodes on which nothing happens.
	idle mode = "idle"
	// changing: at each heartbeat a tenth of the nodes have something to say.
	changing mode = "changing"
)

const (
	// nodeVersions and nodeCodes are what a node has of each.
	nodeVersions, nodeCodes = 5, 10
	// probed is the node that tells of changes whose way is timed.
	probed = 0
	// patience is how long a try may take.
	patience = 20 * time.Second
	// lateCalls is how many calls may come while nobody waits for one.
	lateCalls = 16
)

// simulated is the part of the cluster that is its nodes.
type simulated struct {
	conn  *bus.Conn
	nodes *fleet.Nodes          // nil before they begin
	calls chan time.Time        // when calls came to the probed node
	lost  atomic.Pointer[error] // the first call that was not answered
}

func openFleet(_ context.Context, conn *bus.Conn) (part, func(), error) {
	f := &simulated{conn: conn, calls: make(chan time.Time, lateCalls)}
	stop := func() {
		if f.nodes != nil {
			f.nodes.Stop()
		}
	}
	return f.do, stop, nil
}

func (f *simulated) do(ctx context.Context, _ *bus.Conn, q question) (a answer, err error) {
	if q.Do == "begin" {
		return a, f.begin(ctx, q.Nodes)
	}
	if f.nodes == nil {
		return a, errors.New("the fleet has not begun")
	}
	switch q.Do {
	case "mode":
		f.nodes.Speak(fleet.Mode{Whole: q.Mode == wholes, Change: map[mode]func(int, int, *wire.NodeState){wholes: change, changing: change}[q.Mode]})
		return a, nil
	case "counts":
		got, err := f.nodes.Totals()
		if lost := f.lost.Load(); err == nil && lost != nil {
			err = *lost
		}
		return answer{Count: got.Words, Bytes: got.Bytes, Given: got.GivenUp}, err
	case "placements":
		a.Took, err = f.timePlacements(ctx, q.Tries)
		return a, err
	case "calls":
		a.Took, err = repeat(q.Tries, func() (time.Duration, error) { return f.timeCall(ctx) })
		return a, err
	}
	return a, fmt.Errorf("the fleet cannot do %q", q.Do)
}

func nodeName(i int) wire.NodeID { return wire.NodeID(fmt.Sprintf("node-%05d", i)) }

func probeVersion() wire.VersionID {
	return wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "probe"}, Number: 1}
}

const (
	gib = int64(1) << 30
	// room is what only the probed node has free, and only while it says so.
	room = 16 * gib
)

// reserved is what the nodes' instances hold.
func reserved() wire.Resources {
	return wire.Resources{MemoryBytes: 60 * gib, CPUMillis: 6_000, Instances: 60}
}

// versions are what instances a node has.
func versions(node int) (list []wire.VersionOnNode) {
	for v := range nodeVersions {
		list = append(list, wire.VersionOnNode{
			Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: fmt.Sprint("f", (node+v)%5000)}, Number: 1}, Busy: 10, Slots: 10,
		})
	}
	return list
}

func nodeState(i int) wire.NodeState {
	st := wire.NodeState{
		Node: nodeName(i), Sandbox: "oci", Build: "v1", Protocol: wire.Protocol,
		Runtimes: []string{"python", "node", "go", "provided", "image"},
		Capacity: wire.Resources{MemoryBytes: 64 * gib, CPUMillis: 64_000, Instances: 512},
		Reserved: reserved(), Versions: versions(i),
		Stems:  map[string]int{"python/egress": 2, "node/egress": 2, "base/egress": 1},
		Labels: map[string]string{wire.LabelArch: "amd64", wire.LabelSandbox: "oci", wire.LabelNode: string(nodeName(i)), wire.LabelZone: fmt.Sprint("z", i%3)},
	}
	for c := range nodeCodes {
		st.Codes = append(st.Codes, wire.Digest(fmt.Sprintf("%064x", (i+c)%5000)))
	}
	return st
}

// change is what happens on nodes at work, but for the probed one.
func change(turn, node int, st *wire.NodeState) {
	if node == probed || turn%10 != 0 {
		return
	}
	st.Versions = append([]wire.VersionOnNode{}, st.Versions...)
	st.Versions[turn%nodeVersions].Idle = turn % 3
	st.Idle = wire.Resources{MemoryBytes: int64(turn%3) * gib / 8, Instances: turn % 3}
}

// begin makes the nodes and has them speak.
func (f *simulated) begin(ctx context.Context, n int) (err error) {
	states := make([]wire.NodeState, n)
	for i := range states {
		states[i] = nodeState(i)
	}
	if _, err := f.conn.Subscribe(wire.NodeInvokeSubject(nodeName(probed)), "", f.called); err != nil {
		return err
	}
	f.nodes, err = fleet.Start(ctx, f.conn, states)
	return err
}

// triesBound is how long further tries are begun.
const triesBound = 30 * time.Second

// repeat times something several times. If one fails, or all take too long, it returns the
// ones before as well.
func repeat(times int, one func() (time.Duration, error)) (took []time.Duration, err error) {
	begun := time.Now()
	for range times {
		if time.Since(begun) > triesBound {
			return took, fmt.Errorf("%s were over", triesBound)
		}
		d, err := one()
		if err != nil {
			return took, err
		}
		took = append(took, d)
	}
	return took, nil
}

// timePlacements measures from a node's word that it has room until the scheduler gives
// that room away.
func (f *simulated) timePlacements(ctx context.Context, tries int) ([]time.Duration, error) {
	request, err := json.Marshal(wire.PlaceRequest{
		Version: probeVersion(), Runtime: "python", Needs: wire.Resources{MemoryBytes: room, CPUMillis: 10}, MaxInstances: 1 << 20,
		Protocol: wire.Protocol,
	})
	if err != nil {
		return nil, err
	}
	return repeat(tries, func() (time.Duration, error) { return f.timePlacement(ctx, request) })
}

func (f *simulated) timePlacement(ctx context.Context, request []byte) (took time.Duration, err error) {
	begun := time.Now()
	f.nodes.Say(nodeName(probed), func(st *wire.NodeState) { st.Reserved.MemoryBytes = 64*gib - room })
	// Whatever came of it, the room is gone, and nobody holds a part of it.
	defer f.nodes.Say(nodeName(probed), func(st *wire.NodeState) { st.Reserved = reserved() })
	reply, err := f.place(ctx, request)
	if err != nil {
		return 0, err
	}
	took = time.Since(begun)
	f.nodes.Settle(nodeName(probed), reply.Lease)
	return took, nil
}

// place asks until the scheduler has a node.
func (f *simulated) place(ctx context.Context, request []byte) (reply wire.PlaceReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		data, err := f.conn.Request(ctx, wire.PlaceSubject, request)
		if errors.Is(err, bus.ErrNoResponders) { // nobody leads, for now
			if err := pause(ctx, time.Millisecond); err != nil {
				return reply, err
			}
			continue
		}
		if err != nil {
			return reply, err
		}
		reply = wire.PlaceReply{}
		if err := json.Unmarshal(data, &reply); err != nil || reply.Error == nil {
			return reply, err
		}
		if reply.Error.Code != wire.CodeNoCapacity {
			return reply, reply.Error
		}
	}
}

// timeCall measures from a node's word that it has an instance until a call that waits in
// a gateway gets to it.
func (f *simulated) timeCall(ctx context.Context) (time.Duration, error) {
	if err := f.awaitCall(ctx); err != nil {
		return 0, err
	}
	f.drain()
	begun := time.Now()
	f.nodes.Say(nodeName(probed), func(st *wire.NodeState) {
		st.Versions = append(versions(probed), wire.VersionOnNode{Version: probeVersion(), Idle: 1, Slots: 1})
		st.Sort()
	})
	defer f.nodes.Say(nodeName(probed), func(st *wire.NodeState) {
		st.Versions = versions(probed)
		st.Sort()
	})
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case at := <-f.calls:
			if at.After(begun) { // or it comes of an earlier try
				return at.Sub(begun), nil
			}
		case <-ctx.Done():
			return 0, errors.New("no call came to a node that said that it has an instance")
		}
	}
}

// drain forgets the calls that came while nobody waited for one.
func (f *simulated) drain() {
	for {
		select {
		case <-f.calls:
		default:
			return
		}
	}
}

// awaitCall returns when a call waits in the gateway.
func (f *simulated) awaitCall(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		data, err := f.conn.Request(ctx, callSubject, nil)
		if err != nil || string(data) == callWaits {
			return err
		}
	}
}

// called answers a call to the probed node.
func (f *simulated) called(m bus.Msg) {
	select {
	case f.calls <- time.Now():
	default: // nobody waits for one
	}
	frame, err := wire.AppendFrame(nil, wire.InvokeReply{Node: nodeName(probed), Instance: "i", Spent: true}, []byte("{}"))
	if err == nil {
		err = m.Respond(frame)
	}
	if err != nil {
		f.lost.CompareAndSwap(nil, &err)
	}
}
