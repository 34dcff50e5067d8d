package invoker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// reportPause is the least time between two state messages.
	reportPause = 5 * time.Millisecond
	// removePause stands between two tries to remove an instance.
	removePause = 5 * time.Second
)

// Why an instance goes.
const (
	goneMemory  = "memory"  // another function needed its room
	goneIdle    = "idle"    // nobody called it for the idle limit
	goneSpent   = "spent"   // it ran the one event that it was for
	goneTimeout = "timeout" // an invocation ran into its deadline
	goneEnded   = "ended"   // its process ended, or it cannot be used again
	goneStopped = "stopped" // the node stops
	goneDrained = "drained" // the node drains
)

// release ends an event of a busy instance and reports whether it takes another one.
func (inv *Invoker) release(in *instance) bool {
	if in.once() {
		inv.retireSoon(in, goneSpent)
		return false
	}
	inv.mu.Lock()
	err := inv.pool.Return(in.id, time.Now())
	inv.signalSlot(in.version.VersionID)
	leaves := inv.leavesLocked(in.version.VersionID)
	if inv.draining {
		inv.tendSoon() // it may go
	}
	inv.mu.Unlock()
	if err != nil || leaves {
		return false // it is being removed
	}
	select { // it may have ended while it was busy, when nobody else looks
	case <-in.container.Exited():
		inv.retireIdle(in)
		return false
	default:
		return true
	}
}

// retire removes an instance for good. Whoever comes second does nothing.
func (inv *Invoker) retire(in *instance, why string) {
	if inv.withdraw(in, why) {
		inv.remove(in)
	}
}

// retireSoon kills an instance's processes at once and removes the rest in the
// background, because the engine takes its time and a caller waits.
func (inv *Invoker) retireSoon(in *instance, why string) {
	if inv.withdraw(in, why) {
		in.container.Kill()
		go inv.remove(in)
	}
}

// retireIdle removes an instance whose process ended, unless a call has it.
func (inv *Invoker) retireIdle(in *instance) {
	inv.mu.Lock()
	idle := inv.pool.State(in.id) == pool.Warm && inv.withdrawLocked(in, goneEnded)
	inv.mu.Unlock()
	if idle {
		go inv.remove(in)
	}
}

// withdraw takes an instance out of use and reports whether the caller must remove it.
func (inv *Invoker) withdraw(in *instance, why string) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.withdrawLocked(in, why)
}

// withdrawLocked is withdraw for who holds inv.mu: between choosing an idle instance
// and withdrawing it no call may take it.
func (inv *Invoker) withdrawLocked(in *instance, why string) bool {
	if inv.pool.Move(in.id, pool.Draining, time.Now()) != nil {
		return false
	}
	inv.metrics.gone.WithLabelValues(why).Inc()
	inv.removals.Add(1)
	return true
}

// remove destroys a withdrawn instance and gives its resources back. What the
// engine fails to remove still holds them, and is tried again until the node stops.
func (inv *Invoker) remove(in *instance) {
	defer inv.removals.Done()
	for {
		err := in.destroy(context.WithoutCancel(inv.ctx))
		if err == nil {
			break
		}
		inv.log.Error("instance not removed whole", telemetry.KeyInstance, string(in.id), telemetry.KeyError, err)
		if !inv.pauseFor(removePause) {
			inv.log.Warn("instance left to the next start", telemetry.KeyInstance, string(in.id))
			break
		}
	}
	close(in.gone)
	in.releaseCode()
	inv.mu.Lock()
	delete(inv.instances, in.id)
	err := inv.pool.Move(in.id, pool.Gone, time.Now())
	inv.signalFreed()
	inv.mu.Unlock()
	if err != nil {
		inv.log.Error("instance not forgotten", telemetry.KeyInstance, string(in.id), telemetry.KeyError, err)
	}
	inv.report()
}

// pauseFor waits and reports whether the node still runs then.
func (inv *Invoker) pauseFor(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-inv.ctx.Done():
		return false
	}
}

// signalFreed wakes those who wait for resources; inv.mu is held.
func (inv *Invoker) signalFreed() {
	close(inv.freed)
	inv.freed = make(chan struct{})
}

// forget takes an instance that did not start out of the pool.
func (inv *Invoker) forget(id wire.InstanceID) {
	inv.mu.Lock()
	now := time.Now()
	err := errors.Join(inv.pool.Move(id, pool.Draining, now), inv.pool.Move(id, pool.Gone, now))
	inv.signalFreed()
	inv.mu.Unlock()
	if err != nil {
		inv.log.Error("instance not forgotten", telemetry.KeyInstance, string(id), telemetry.KeyError, err)
	}
	inv.report()
}

// retireWhenEnded removes an instance whose process ends while nobody uses it.
// While it is busy, its call sees the end.
func (inv *Invoker) retireWhenEnded(in *instance) {
	select {
	case <-in.container.Exited():
		inv.retireIdle(in)
	case <-in.gone:
	}
}

// destroyAll removes every instance, and waits for those that are being removed
// already; nothing runs on them any more.
func (inv *Invoker) destroyAll() {
	inv.mu.Lock()
	all := make([]*instance, 0, len(inv.instances))
	for _, in := range inv.instances {
		all = append(all, in)
	}
	inv.mu.Unlock()
	var wait sync.WaitGroup
	for _, in := range all {
		wait.Go(func() { inv.retire(in, goneStopped) })
	}
	wait.Wait()
	inv.removals.Wait() // none is added: every instance is withdrawn
}

// settle notes that a lease is used up, so that the scheduler forgets it.
func (inv *Invoker) settle(lease wire.LeaseID) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.settleLocked(lease)
}

// settleLocked is settle for who holds inv.mu.
func (inv *Invoker) settleLocked(lease wire.LeaseID) {
	if lease != "" {
		inv.settled[lease] = time.Now()
	}
}

// report asks for a state message soon; many requests make one message.
func (inv *Invoker) report() {
	select {
	case inv.reports <- struct{}{}:
	default:
	}
}

// reportLoop publishes a word at every heartbeat and soon after each change. When NATS was
// lost, a heartbeat comes as soon as it is back: the last ones may have got lost.
func (inv *Invoker) reportLoop() {
	back := make(chan struct{}, 1)
	defer inv.deps.Conn.OnBack(func() {
		select {
		case back <- struct{}{}:
		default:
		}
	})()
	beat := time.NewTicker(wire.HeartbeatEvery)
	defer beat.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for why := onBeat; ; {
		said := time.Now()
		if inv.tell(why) && why == onBeat {
			inv.contact.beat(said)
		}
		pause.Reset(reportPause)
		select {
		case <-inv.ctx.Done():
			return
		case <-pause.C:
		}
		select {
		case <-inv.ctx.Done():
			return
		case <-beat.C:
			why = onBeat
		case <-back:
			why = onBeat
		case <-inv.reports:
			why = onChange
		}
	}
}

// state is how the node is, for a word after the one that told last, which is nil for the
// first.
func (inv *Invoker) state(why occasion, last *wire.NodeState) wire.NodeState {
	s := wire.NodeState{
		Node: inv.cfg.Node, Capacity: inv.cfg.Capacity, Sandbox: inv.deps.Sandbox.Kind(),
		Stopping: why == onStop, At: time.Now(), Load: loadPerCore(), Build: inv.cfg.Build,
		Protocol: wire.Protocol, Labels: inv.labels,
	}
	if inv.codes != nil {
		s.Codes = append(inv.codes.list(), inv.roots.images()...)
	}
	for _, rt := range runtimes.All() {
		s.Runtimes = append(s.Runtimes, rt.Name)
	}
	if inv.runsImages() {
		s.Runtimes = append(s.Runtimes, functions.RuntimeImage)
	}
	s.Stems = inv.stems.counts()
	if why == onChange && last != nil {
		s.Ran = last.Ran // it changes with every call, and nobody waits for it
	} else {
		s.Ran = inv.metrics.ran.list(time.Now())
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.seq++
	s.Run, s.Seq = inv.run, inv.seq
	s.Reserved, s.Idle = inv.pool.Usage()
	inv.metrics.showInstances(inv.pool.Count())
	s.Versions = inv.pool.Versions()
	inv.offer(&s)
	for lease, at := range inv.settled {
		if time.Since(at) > wire.LeaseTTL {
			delete(inv.settled, lease)
			continue
		}
		s.Settled = append(s.Settled, lease)
	}
	return s
}

// stateSeq is the sequence of the last state that was taken.
func (inv *Invoker) stateSeq() uint64 {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.seq
}

// record publishes what is known of an invocation. One whose output is stored is
// on disk before this returns.
func (inv *Invoker) record(ctx context.Context, r wire.Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if r.Output != nil {
		return inv.deps.Conn.PublishStored(ctx, wire.StoredRecordSubject(r.Version.FunctionID, r.Invocation), data)
	}
	return inv.deps.Conn.Publish(wire.RecordSubject(r.Version.FunctionID, r.Invocation), data)
}

func (inv *Invoker) publishLog(e wire.LogEntry) {
	data, err := json.Marshal(e)
	if err == nil {
		err = inv.deps.Conn.Publish(wire.LogSubject(e.Version.FunctionID, e.Invocation), data)
	}
	if err != nil {
		inv.log.Warn("log lost", telemetry.KeyInvocation, string(e.Invocation), telemetry.KeyError, err)
	}
}

// loadPerCore is the one-minute load average by core, or 0 where there is none.
func loadPerCore() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load / float64(runtime.NumCPU())
}

// totalMemory is the machine's memory in bytes.
func totalMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("measure memory: %w; set it with --memory", err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("measure memory: no MemTotal in /proc/meminfo; set it with --memory")
}
