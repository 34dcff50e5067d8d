package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

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
	// strides is over how many moments the nodes' heartbeats are spread.
	strides = 50
	// nodeVersions and nodeCodes are what a node has of each.
	nodeVersions, nodeCodes = 5, 10
	// probed is the node that tells of changes whose way is timed, tries how often.
	probed, tries = 0, 200
	// patience is how long a try may take.
	patience = 20 * time.Second
)

// nodes are those of a fleet.
type nodes struct {
	conn *bus.Conn
	at   map[string]int // nodes by the subjects that they listen to; set before any is heard

	mu     sync.Mutex // guards what follows, and the order of a node's words
	states []wire.NodeState
	told   []wire.NodeState
	mode   mode
	turn   int
	words  int64
	bytes  int64
	given  int64 // runs that the scheduler gave up
	failed error

	calls chan time.Time // when a call came to the probed node
}

func openFleet(_ context.Context, conn *bus.Conn) (part, func(), error) {
	f := &nodes{conn: conn, at: map[string]int{}, calls: make(chan time.Time, 1)}
	return f.do, func() {}, nil
}

func (f *nodes) do(ctx context.Context, _ *bus.Conn, q question) (a answer, err error) {
	switch q.Do {
	case "begin":
		return a, f.begin(ctx, q.Nodes)
	case "mode":
		f.mu.Lock()
		defer f.mu.Unlock()
		f.mode = q.Mode
		return a, nil
	case "counts":
		f.mu.Lock()
		defer f.mu.Unlock()
		return answer{Count: f.words, Bytes: f.bytes, Given: f.given}, f.failed
	case "timings":
		a.Took, err = f.timePlacements(ctx)
		if err == nil {
			a.Other, err = f.timeCalls(ctx)
		}
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

// begin makes the nodes and has them speak until ctx is done.
func (f *nodes) begin(ctx context.Context, n int) error {
	for i := range n {
		st := wire.NodeState{
			Node: nodeName(i), Run: fmt.Sprintf("01998c2e-7d5a-7c11-9f00-%012d", i), Sandbox: "oci", Build: "v1", Protocol: wire.Protocol,
			Runtimes: []string{"python", "node", "go", "provided", "image"},
			Capacity: wire.Resources{MemoryBytes: 64 * gib, CPUMillis: 64_000, Instances: 512},
			Reserved: reserved(),
			Stems:    map[string]int{"python/egress": 2, "node/egress": 2, "base/egress": 1},
			Labels:   map[string]string{wire.LabelArch: "amd64", wire.LabelSandbox: "oci", wire.LabelNode: string(nodeName(i)), wire.LabelZone: fmt.Sprint("z", i%3)},
		}
		for v := range nodeVersions {
			st.Versions = append(st.Versions, wire.VersionOnNode{
				Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: fmt.Sprint("f", (i+v)%5000)}, Number: 1}, Busy: 10, Slots: 10,
			})
		}
		for c := range nodeCodes {
			st.Codes = append(st.Codes, wire.Digest(fmt.Sprintf("%064x", (i+c)%5000)))
		}
		st.Sort()
		f.at[wire.NodeAskSubject(st.Node)], f.at[wire.NodeFenceSubject(st.Node)] = i, i
		f.states, f.told = append(f.states, st), append(f.told, wire.NodeState{})
	}
	for _, subject := range []string{wire.NodeProbeSubject, "dayfly.node.*.ask"} {
		if _, err := f.conn.Subscribe(subject, "", func(m bus.Msg) { f.asked(m.Subject) }); err != nil {
			return err
		}
	}
	if _, err := f.conn.Subscribe("dayfly.node.*.fence", "", f.fenced); err != nil {
		return err
	}
	if _, err := f.conn.Subscribe(wire.NodeInvokeSubject(nodeName(probed)), "", f.called); err != nil {
		return err
	}
	f.mode = idle
	go f.speak(ctx)
	return nil
}

// asked has the node of a subject, or all, say all of their states.
func (f *nodes) asked(subject string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i, one := f.at[subject]; one {
		f.say(i, true)
		return
	}
	for i := range f.states {
		f.say(i, true)
	}
}

// fenced has a node begin a new run, because the scheduler gave the old one up.
func (f *nodes) fenced(m bus.Msg) {
	var req wire.FenceRequest
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := json.Unmarshal(m.Data, &req); err != nil {
		f.failed = err
		return
	}
	if i, ok := f.at[m.Subject]; ok && f.states[i].Run == req.Run {
		f.states[i].Run += "+"
		f.given++
		f.say(i, true)
	}
}

// speak has each node say a word at every heartbeat, a part of them after the other.
func (f *nodes) speak(ctx context.Context) {
	tick := time.NewTicker(wire.HeartbeatEvery / strides)
	defer tick.Stop()
	for stride := 0; ; stride++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.mu.Lock()
		for i := stride % strides; i < len(f.states); i += strides {
			f.turn++
			st := &f.states[i]
			if f.mode != idle && i != probed && f.turn%10 == 0 {
				st.Versions = append([]wire.VersionOnNode{}, st.Versions...)
				st.Versions[f.turn%nodeVersions].Idle = f.turn % 3
				st.Idle = wire.Resources{MemoryBytes: int64(f.turn%3) * gib / 8, Instances: f.turn % 3}
			}
			// Each node says all of it every so many beats.
			every := int(wire.WholeEvery / wire.HeartbeatEvery)
			f.say(i, f.mode == wholes || (stride/strides+i)%every == 0)
		}
		f.mu.Unlock()
	}
}

// say publishes a node's next word; f.mu is held.
func (f *nodes) say(i int, whole bool) {
	st := &f.states[i]
	st.Seq++
	st.At = time.Now()
	var w wire.NodeWord
	if !whole && st.Seq > 1 {
		w.Delta = wire.Diff(&f.told[i], st)
	}
	if w.Delta == nil {
		w.Whole = st
	}
	f.told[i] = *st
	data, err := json.Marshal(w)
	if err == nil {
		err = f.conn.Publish(wire.NodeStateSubject(st.Node), data)
	}
	if err != nil && f.failed == nil {
		f.failed = err
	}
	f.words++
	f.bytes += int64(len(data))
}

// change has the probed node say at once what changed.
func (f *nodes) change(do func(*wire.NodeState)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(&f.states[probed])
	f.say(probed, f.mode == wholes)
}

// timePlacements measures from a node's word that it has room until the scheduler gives
// that room away.
func (f *nodes) timePlacements(ctx context.Context) (took []time.Duration, err error) {
	request, err := json.Marshal(wire.PlaceRequest{
		Version: probeVersion(), Runtime: "python", Needs: wire.Resources{MemoryBytes: room, CPUMillis: 10}, MaxInstances: 1 << 20,
		Protocol: wire.Protocol,
	})
	if err != nil {
		return nil, err
	}
	full := reserved()
	var settled []wire.LeaseID
	for range tries {
		begun := time.Now()
		f.change(func(st *wire.NodeState) { st.Reserved.MemoryBytes, st.Settled = 64*gib-room, settled })
		reply, err := f.place(ctx, request)
		if err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
		settled = []wire.LeaseID{reply.Lease}
		f.change(func(st *wire.NodeState) { st.Reserved, st.Settled = full, settled })
	}
	return took, nil
}

// place asks until the scheduler has a node.
func (f *nodes) place(ctx context.Context, request []byte) (reply wire.PlaceReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		data, err := f.conn.Request(ctx, wire.PlaceSubject, request)
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

// timeCalls measures from a node's word that it has an instance until a call that waits
// in a gateway gets to it.
func (f *nodes) timeCalls(ctx context.Context) (took []time.Duration, err error) {
	for range tries {
		if err := f.awaitCall(ctx); err != nil {
			return nil, err
		}
		versions := f.states[probed].Versions
		begun := time.Now()
		f.change(func(st *wire.NodeState) {
			st.Versions = append([]wire.VersionOnNode{}, versions...)
			st.Versions = append(st.Versions, wire.VersionOnNode{Version: probeVersion(), Idle: 1, Slots: 1})
			st.Sort()
		})
		select {
		case at := <-f.calls:
			took = append(took, at.Sub(begun))
		case <-time.After(patience):
			return nil, errors.New("no call came to a node that said that it has an instance")
		}
		f.change(func(st *wire.NodeState) { st.Versions = versions })
	}
	return took, nil
}

// awaitCall returns when a call waits in the gateway.
func (f *nodes) awaitCall(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		data, err := f.conn.Request(ctx, callSubject, nil)
		if err != nil {
			return err
		}
		if string(data) == callWaits {
			return nil
		}
		select {
		case <-f.calls:
		default:
		}
	}
}

// called answers a call to the probed node.
func (f *nodes) called(m bus.Msg) {
	f.calls <- time.Now()
	frame, err := wire.AppendFrame(nil, wire.InvokeReply{Node: nodeName(probed), Instance: "i", Spent: true}, []byte("{}"))
	if err == nil {
		err = m.Respond(frame)
	}
	if err != nil {
		f.mu.Lock()
		f.failed = err
		f.mu.Unlock()
	}
}
