package main

import (
	"cmp"
	"container/list"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/trace"
	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

// setup is what the simulated cluster is like. The costs are those of this repository's
// own tables, for the docker sandbox.
type setup struct {
	nodes int
	zones int
	// nodeBytes is the memory of each node.
	nodeBytes int64
	// idleLimit is how long an instance stays when nobody needs its memory.
	idleLimit time.Duration
	// codeSlots is how many artifacts a node's disk holds; the longest unused one goes.
	codeSlots int
	// stems is how many containers of each runtime wait on a node. One that was taken is
	// replaced after refill, one after the other.
	stems  int
	refill time.Duration
	// stemCost is what a cold call takes with a stem and the code there; fetchCost comes
	// on top where the code is not, startCost where no stem is.
	stemCost, fetchCost, startCost time.Duration
	seed                           uint64
}

// runtimes are those that functions are dealt out to: stems are of one each.
func runtimes() []string { return []string{"python", "node"} }

// outcome is what a policy made of a trace.
type outcome struct {
	warm, cold, refused int
	// code and stem count the cold calls that found the one or the other.
	code, stem int
	evicted    int
	waited     time.Duration
	// uneven is the largest share of memory that runs on one node, by the mean of all
	// nodes, averaged over time; hottest is the 99th percentile of that largest share.
	uneven  float64
	hottest float64
	// apart counts, of the moments at which a function had several instances running, those
	// at which they were in several zones.
	several, apart int
}

func (o outcome) calls() int { return o.warm + o.cold + o.refused }

// instance is one container.
type instance struct {
	function int32
	node     int
	idleAt   int64 // micros since the beginning
	place    *list.Element
}

// server is one node.
type server struct {
	id         wire.NodeID
	zone       string
	held, busy int64 // bytes
	idle       *list.List
	code       map[int32]*list.Element // of recent
	recent     *list.List              // functions, the longest unused first
	stems      map[string]int
	refilling  map[string]int64 // micros, when the next one is there; 0 for none
	versions   map[wire.VersionID]int
	codes      []wire.Digest
	dirty      bool
	instances  int
}

// cluster is the simulation under way.
type cluster struct {
	setup
	trace    *trace.Trace
	policy   policy
	rnd      *rand.Rand
	servers  []*server
	now      int64
	finishes trace.Agenda[*instance]
	idle     [][]*instance    // by function, the most recently used last
	busy     []map[string]int // by function, how many run in a zone
	// versions and artifacts are by function.
	versions  []wire.VersionID
	artifacts []wire.Digest
	sampleAt  int64
	means     []float64
	tops      []float64
	outcome
}

// errOvercommit says that a policy chose a node without room.
var errOvercommit = errors.New("the policy chose a node that has no room")

// sampleEvery is how often the load is looked at, in micros.
const sampleEvery = int64(5 * time.Second / time.Microsecond)

// simulate runs a trace on a cluster.
func simulate(t *trace.Trace, p policy, s setup) (outcome, error) {
	c := &cluster{
		setup: s, trace: t, policy: p,
		rnd:  rand.New(rand.NewPCG(s.seed, 7)), //nolint:gosec // a simulation must be repeatable
		idle: make([][]*instance, len(t.Functions)), busy: make([]map[string]int, len(t.Functions)),
	}
	for i := range s.nodes {
		one := &server{
			id: wire.NodeID("node-" + strconv.Itoa(i)), zone: "zone-" + strconv.Itoa(i%s.zones),
			idle: list.New(), code: map[int32]*list.Element{}, recent: list.New(),
			stems: map[string]int{}, refilling: map[string]int64{}, versions: map[wire.VersionID]int{}, dirty: true,
		}
		for _, kind := range runtimes() {
			one.stems[kind] = s.stems
		}
		c.servers = append(c.servers, one)
	}
	for i := range c.busy {
		c.busy[i] = map[string]int{}
		name := "f" + strconv.Itoa(i)
		c.versions = append(c.versions, wire.VersionID{FunctionID: wire.FunctionID{Namespace: "trace", Name: name}, Number: 1})
		c.artifacts = append(c.artifacts, wire.Digest("code of "+name))
	}
	for _, call := range t.Calls {
		c.advance(call.AtMicros)
		if err := c.call(call); err != nil {
			return outcome{}, err
		}
	}
	c.sum()
	return c.outcome, nil
}

// advance lets time pass.
func (c *cluster) advance(to int64) {
	for {
		at, in, due := c.finishes.Next(time.Duration(to) * time.Microsecond)
		next := to
		if due {
			next = at.Microseconds()
		}
		for ; c.sampleAt <= next; c.sampleAt += sampleEvery {
			c.now = c.sampleAt
			c.tend()
			c.sample()
		}
		c.now = next
		if !due {
			return
		}
		c.rest(in)
	}
}

// rest makes an instance idle.
func (c *cluster) rest(in *instance) {
	s := c.servers[in.node]
	in.idleAt = c.now
	s.busy -= c.bytes(in.function)
	s.dirty = true
	in.place = s.idle.PushBack(in)
	c.idle[in.function] = append(c.idle[in.function], in)
	c.leave(in, s)
}

func (c *cluster) leave(in *instance, s *server) {
	zones := c.busy[in.function]
	if zones[s.zone]--; zones[s.zone] == 0 {
		delete(zones, s.zone)
	}
}

func (c *cluster) bytes(function int32) int64 { return c.trace.Functions[function].Bytes }

// tend removes what was idle for too long and refills stems.
func (c *cluster) tend() {
	limit := c.now - c.idleLimit.Microseconds()
	for _, s := range c.servers {
		for e := s.idle.Front(); e != nil; e = s.idle.Front() {
			in, _ := e.Value.(*instance)
			if in.idleAt > limit {
				break
			}
			c.remove(in)
		}
		c.refillStems(s)
	}
}

func (c *cluster) refillStems(s *server) {
	for _, kind := range runtimes() {
		for s.refilling[kind] != 0 && s.refilling[kind] <= c.now {
			s.stems[kind]++
			s.dirty = true
			if s.stems[kind] < c.stems {
				s.refilling[kind] += c.refill.Microseconds()
			} else {
				s.refilling[kind] = 0
			}
		}
	}
}

// remove ends an idle instance.
func (c *cluster) remove(in *instance) {
	s := c.servers[in.node]
	s.idle.Remove(in.place)
	stack := c.idle[in.function]
	at := slices.Index(stack, in)
	c.idle[in.function] = slices.Delete(stack, at, at+1)
	s.held -= c.bytes(in.function)
	s.instances--
	v := c.versions[in.function]
	if s.versions[v]--; s.versions[v] == 0 {
		delete(s.versions, v)
	}
	s.dirty = true
}

// call runs one invocation: in an idle instance, of which the one on the least busy node
// is taken, as a gateway does, or in a new one.
func (c *cluster) call(call trace.Call) error {
	if stack := c.idle[call.Function]; len(stack) > 0 {
		in := slices.MinFunc(stack, func(a, b *instance) int {
			return cmp.Or(cmp.Compare(c.servers[a.node].busy, c.servers[b.node].busy), cmp.Compare(b.idleAt, a.idleAt))
		})
		c.idle[call.Function] = slices.Delete(stack, slices.Index(stack, in), slices.Index(stack, in)+1)
		c.servers[in.node].idle.Remove(in.place)
		c.warm++
		c.begin(in, call, 0)
		return nil
	}
	at := c.policy.pick(c, call.Function)
	if at < 0 {
		c.refused++
		return nil
	}
	if !c.fits(at, call.Function) {
		return fmt.Errorf("%w: node %d", errOvercommit, at)
	}
	c.cold++
	c.begin(c.start(at, call.Function), call, c.cost(at, call.Function))
	return nil
}

// fits reports whether a node has room when its idle instances go.
func (c *cluster) fits(at int, function int32) bool {
	return c.servers[at].busy+c.bytes(function) <= c.nodeBytes
}

// cost takes a stem and the code of a function, and returns how long that takes.
func (c *cluster) cost(at int, function int32) time.Duration {
	s, took := c.servers[at], c.stemCost
	c.refillStems(s)
	kind := runtimeOf(function)
	if s.stems[kind] > 0 {
		c.stem++
		s.stems[kind]--
	} else {
		took += c.startCost
	}
	if s.refilling[kind] == 0 {
		s.refilling[kind] = c.now + c.refill.Microseconds()
	}
	if e := s.code[function]; e != nil {
		c.code++
		s.recent.MoveToBack(e)
	} else {
		took += c.fetchCost
		s.code[function] = s.recent.PushBack(function)
		s.codes = append(s.codes, c.artifacts[function])
		if s.recent.Len() > c.codeSlots {
			oldest, _ := s.recent.Remove(s.recent.Front()).(int32)
			delete(s.code, oldest)
			at := slices.Index(s.codes, c.artifacts[oldest])
			s.codes = slices.Delete(s.codes, at, at+1)
		}
	}
	c.waited += took
	return took
}

// start makes an instance, for which idle ones go.
func (c *cluster) start(at int, function int32) *instance {
	s := c.servers[at]
	for s.held+c.bytes(function) > c.nodeBytes {
		in, _ := s.idle.Front().Value.(*instance)
		c.remove(in)
		c.evicted++
	}
	s.held += c.bytes(function)
	s.instances++
	s.versions[c.versions[function]]++
	return &instance{function: function, node: at}
}

func (c *cluster) begin(in *instance, call trace.Call, delay time.Duration) {
	s := c.servers[in.node]
	s.busy += c.bytes(in.function)
	s.dirty = true
	zones := c.busy[in.function]
	running := 0
	for _, n := range zones {
		running += n
	}
	zones[s.zone]++
	if running > 0 {
		c.several++
		if len(zones) > 1 {
			c.apart++
		}
	}
	c.finishes.Add(time.Duration(c.now)*time.Microsecond+call.Run()+delay, in)
}

// sample notes how loaded the nodes are.
func (c *cluster) sample() {
	var sum, top int64
	for _, s := range c.servers {
		sum += s.busy
		top = max(top, s.busy)
	}
	c.means = append(c.means, float64(sum)/float64(len(c.servers))/float64(c.nodeBytes))
	c.tops = append(c.tops, float64(top)/float64(c.nodeBytes))
}

func (c *cluster) sum() {
	var mean, top float64
	for i := range c.means {
		mean += c.means[i]
		top += c.tops[i]
	}
	if mean > 0 {
		c.uneven = top / mean
	}
	slices.Sort(c.tops)
	if n := len(c.tops); n > 0 {
		c.hottest = c.tops[n*99/100]
	}
}

func runtimeOf(function int32) string { return runtimes()[int(function)%len(runtimes())] }

// cpuOf is what is set aside of a node's cores, which are never what is scarce here.
const cpuOf = 1

// describe is what a scheduler would know of a node.
func (c *cluster) describe(s *server) placement.Node {
	return placement.Node{
		ID: s.id, Capacity: wire.Resources{MemoryBytes: c.nodeBytes, CPUMillis: 1 << 40, Instances: 1 << 30},
		Reserved: wire.Resources{MemoryBytes: s.held, CPUMillis: cpuOf * int64(s.instances), Instances: s.instances},
		Idle:     wire.Resources{MemoryBytes: s.held - s.busy}, Runtimes: runtimes(),
		Labels: map[string]string{wire.LabelZone: s.zone}, Stems: s.stems, Versions: s.versions, Codes: s.codes,
	}
}
