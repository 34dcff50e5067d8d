package main

import (
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/trace"
	"github.com/dayfly-run/dayfly/wire"
)

// policy says which instance goes. [keepalive.Policy] is one, as the node has it;
// see there for what the methods mean.
type policy interface {
	Start(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time)
	StartAhead(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time)
	Measured(id wire.InstanceID, cost time.Duration)
	Busy(id wire.InstanceID, now time.Time)
	Idle(id wire.InstanceID, now time.Time)
	Remove(id wire.InstanceID, now time.Time)
	Victims(now time.Time) iter.Seq[wire.InstanceID]
	Expired(now time.Time) []wire.InstanceID
	Due(now time.Time) []wire.VersionID
}

// Result is what a policy made of a trace.
type Result struct {
	// Warm calls found an idle instance, Cold ones started one, Refused ones found the
	// memory full of running instances. Together they are all calls.
	Warm, Cold, Refused int
	// Ahead instances were started before a call; the Unused of them never had one.
	Ahead, Unused int
	// Evicted instances went for another's memory, Expired ones at the idle limit,
	// Live ones are left. Together they are the cold and the ahead.
	Evicted, Expired, Live int
	// Waited is what the cold starts took together.
	Waited time.Duration
	// PeakBytes and MeanBytes are the memory of all instances.
	PeakBytes int64
	MeanBytes float64
}

// Calls returns how many calls there were.
func (r Result) Calls() int { return r.Warm + r.Cold + r.Refused }

// plus adds up runs; memory becomes the largest.
func (r Result) plus(o Result) Result {
	return Result{
		Warm: r.Warm + o.Warm, Cold: r.Cold + o.Cold, Refused: r.Refused + o.Refused,
		Ahead: r.Ahead + o.Ahead, Unused: r.Unused + o.Unused,
		Evicted: r.Evicted + o.Evicted, Expired: r.Expired + o.Expired, Live: r.Live + o.Live,
		Waited: r.Waited + o.Waited, PeakBytes: max(r.PeakBytes, o.PeakBytes), MeanBytes: max(r.MeanBytes, o.MeanBytes),
	}
}

// tickEvery is how often the node looks for instances to remove or to start ahead.
const tickEvery = time.Second

// epoch is the trace's beginning.
func epoch() time.Time { return time.Date(2019, time.July, 15, 0, 0, 0, 0, time.UTC) }

type instanceState uint8

const (
	starting instanceState = iota // ahead of a call
	busy
	idle
)

type instance struct {
	id       wire.InstanceID
	function int32
	state    instanceState
	used     bool
}

// node is the simulated node.
type node struct {
	trace     *trace.Trace
	policy    policy
	capacity  int64
	used      int64
	now       time.Time
	changed   time.Time // when used did
	versions  []wire.VersionID
	functions map[wire.VersionID]int32
	instances map[wire.InstanceID]*instance
	idle      [][]*instance // by function; the most recently used last
	finishes  trace.Agenda[*instance]
	started   int
	byteTime  float64 // byte-seconds
	Result
}

// Simulate runs a trace on a node of so many bytes. It fails when the policy names
// an instance that is not idle.
func Simulate(t *trace.Trace, p policy, capacity int64) (Result, error) {
	n := &node{
		trace: t, policy: p, capacity: capacity, now: epoch(), changed: epoch(),
		functions: map[wire.VersionID]int32{}, instances: map[wire.InstanceID]*instance{},
		idle: make([][]*instance, len(t.Functions)),
	}
	for i := range t.Functions {
		v := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "trace", Name: "f" + strconv.Itoa(i)}, Number: 1}
		n.versions = append(n.versions, v)
		n.functions[v] = int32(i)
	}
	tick := epoch()
	for _, c := range t.Calls {
		at := epoch().Add(c.At())
		for ; !tick.After(at); tick = tick.Add(tickEvery) {
			if err := n.tick(tick); err != nil {
				return Result{}, err
			}
		}
		if err := n.call(c, at); err != nil {
			return Result{}, err
		}
	}
	n.hold(0)
	n.Live = len(n.instances)
	for _, in := range n.instances {
		if !in.used {
			n.Unused++
		}
	}
	if span := n.now.Sub(epoch()); span > 0 {
		n.MeanBytes = n.byteTime / span.Seconds()
	}
	return n.Result, nil
}

// advance brings the clock to a moment and ends what ends until then.
func (n *node) advance(to time.Time) {
	until := to.Sub(epoch())
	for {
		at, in, due := n.finishes.Next(until)
		if !due {
			break
		}
		n.now = epoch().Add(at)
		in.state = idle
		n.idle[in.function] = append(n.idle[in.function], in)
		n.policy.Idle(in.id, n.now)
	}
	n.now = to
}

func (n *node) tick(at time.Time) error {
	n.advance(at)
	for _, id := range n.policy.Expired(at) {
		if err := n.remove(id); err != nil {
			return err
		}
		n.Expired++
	}
	for _, v := range n.policy.Due(at) {
		function, known := n.functions[v]
		if !known {
			return fmt.Errorf("the policy wants an instance of %s, which the trace does not have", v)
		}
		in, err := n.start(function, true)
		if err != nil {
			return err
		}
		if in != nil {
			n.Ahead++
			n.finishes.Add(at.Add(n.trace.Functions[function].ColdStart).Sub(epoch()), in)
		}
	}
	return nil
}

func (n *node) call(c trace.Call, at time.Time) error {
	n.advance(at)
	if stack := n.idle[c.Function]; len(stack) > 0 {
		in := stack[len(stack)-1]
		n.idle[c.Function] = stack[:len(stack)-1]
		in.state, in.used = busy, true
		n.Warm++
		n.policy.Busy(in.id, at)
		n.finishes.Add(at.Add(c.Run()).Sub(epoch()), in)
		return nil
	}
	in, err := n.start(c.Function, false)
	if err != nil {
		return err
	}
	if in == nil {
		n.Refused++
		return nil
	}
	cold := n.trace.Functions[c.Function].ColdStart
	n.Cold++
	n.Waited += cold
	n.finishes.Add(at.Add(cold+c.Run()).Sub(epoch()), in)
	return nil
}

// start makes an instance and the room for it; it returns nil when there is none.
func (n *node) start(function int32, ahead bool) (*instance, error) {
	f := n.trace.Functions[function]
	if ok, err := n.makeRoom(f.Bytes); !ok || err != nil {
		return nil, err
	}
	n.started++
	in := &instance{id: wire.InstanceID("i" + strconv.Itoa(n.started)), function: function, state: busy, used: !ahead}
	n.instances[in.id] = in
	n.hold(f.Bytes)
	if ahead {
		in.state = starting
		n.policy.StartAhead(in.id, n.versions[function], f.Bytes, n.now)
	} else {
		n.policy.Start(in.id, n.versions[function], f.Bytes, n.now)
	}
	n.policy.Measured(in.id, f.ColdStart)
	return in, nil
}

func (n *node) makeRoom(bytes int64) (bool, error) {
	free := n.capacity - n.used
	if free >= bytes {
		return true, nil
	}
	var victims []wire.InstanceID
	for id := range n.policy.Victims(n.now) {
		in := n.instances[id]
		if in == nil {
			return false, fmt.Errorf("the policy names %s, which is not there", id)
		}
		victims = append(victims, id)
		if free += n.trace.Functions[in.function].Bytes; free >= bytes {
			break
		}
	}
	if free < bytes {
		return false, nil
	}
	for _, id := range victims {
		if err := n.remove(id); err != nil {
			return false, err
		}
		n.Evicted++
	}
	return true, nil
}

func (n *node) remove(id wire.InstanceID) error {
	in := n.instances[id]
	if in == nil || in.state != idle {
		return fmt.Errorf("the policy removes %s, which is not idle", id)
	}
	stack := n.idle[in.function]
	for i := range stack {
		if stack[i] == in {
			n.idle[in.function] = append(stack[:i], stack[i+1:]...)
			break
		}
	}
	delete(n.instances, id)
	n.hold(-n.trace.Functions[in.function].Bytes)
	n.policy.Remove(id, n.now)
	if !in.used {
		n.Unused++
	}
	return nil
}

// hold changes how much memory is held.
func (n *node) hold(bytes int64) {
	n.byteTime += float64(n.used) * n.now.Sub(n.changed).Seconds()
	n.changed = n.now
	n.used += bytes
	n.PeakBytes = max(n.PeakBytes, n.used)
}
