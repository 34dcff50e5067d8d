package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/test/cluster"
	"github.com/dayfly-run/dayfly/wire"
)

// row is a line of the table.
type row struct{ until, must string }

// What is lost.
const (
	leaderKilled  = "leading scheduler, kill -9"
	nodeOff       = "node, power off"
	invokerKilled = "invoker, kill -9"
	gatewayKilled = "gateway, kill -9"
	natsKilled    = "NATS server that leads the events, kill -9"
)

// What is waited for; each is one line.
const (
	untilPlaced     = "another scheduler places"
	untilCallsPower = "calls that ran there are answered"
	untilRerun      = "events that ran there run elsewhere"
	untilCallsKill  = "calls that ran there are answered (its guard lives)"
	untilGateway    = "the slowest call by the other gateway is answered"
	untilNATSCall   = "the slowest warm call is answered"
	untilAccepted   = "an event is accepted"
	untilStreamRun  = "an event has run"
)

// losses are what is measured.
var losses = []struct {
	what    string
	rows    []row
	counts  bool // warm calls that fail
	measure func(r *recovery, ctx context.Context, round int) error
}{
	{leaderKilled, []row{{untilPlaced, "3 s"}}, true, (*recovery).leader},
	{nodeOff, []row{{untilCallsPower, ""}, {untilRerun, "5 s"}}, false, (*recovery).node},
	{invokerKilled, []row{{untilCallsKill, "1 s"}}, false, (*recovery).invoker},
	{gatewayKilled, []row{{untilGateway, ""}}, true, (*recovery).gateway},
	{natsKilled, []row{{untilNATSCall, ""}, {untilAccepted, ""}, {untilStreamRun, ""}}, true, (*recovery).nats},
}

// leader kills the scheduler that leads, while warm calls go on.
func (r *recovery) leader(ctx context.Context, _ int) error {
	leader := r.cluster.Leader()
	if leader == nil {
		return errors.New("no scheduler leads")
	}
	calls := r.startWarm(ctx, r.cluster.Gateways...)
	lost := time.Now()
	if err := leader.Kill(); err != nil {
		return err
	}
	err := cluster.Poll(ctx, func() error { return r.placed(ctx) })
	r.note(untilPlaced, time.Since(lost))
	leader.Start()
	_, failed := calls.stop()
	r.failed[leaderKilled] += failed
	return err
}

// placed fails unless a scheduler places an instance, which nobody starts.
func (r *recovery) placed(ctx context.Context) error {
	data, err := json.Marshal(wire.PlaceRequest{
		Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: wire.DefaultNamespace, Name: "nobody"}, Number: 1},
		Runtime: functions.RuntimeImage, Needs: wire.Resources{MemoryBytes: 1 << 20, CPUMillis: 1}, MaxInstances: 1000, Protocol: wire.Protocol,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	reply, err := r.conn.Request(ctx, wire.PlaceSubject, data)
	if errors.Is(err, bus.ErrNoResponders) {
		return errors.New("nobody leads")
	}
	if err != nil {
		return err
	}
	return refusal(reply)
}

// refusal is why a scheduler did not place what it was asked for, or nil if it did.
func refusal(reply []byte) error {
	var r wire.PlaceReply
	switch err := json.Unmarshal(reply, &r); {
	case err != nil:
		return fmt.Errorf("answer to a placement: %w", err)
	case r.Error != nil:
		return r.Error
	case r.Node == "":
		return errors.New("a placement without a node")
	}
	return nil
}

// node turns off a machine on which calls and events run.
func (r *recovery) node(ctx context.Context, _ int) error {
	var victim *cluster.Process
	lost, err := r.holdAndLose(ctx, func(busiest *cluster.Process) error {
		victim = busiest
		return r.cluster.PowerOff(victim)
	})
	if err != nil {
		return err
	}
	for _, took := range lost.calls {
		r.note(untilCallsPower, took)
	}
	for _, took := range lost.events {
		r.note(untilRerun, took)
	}
	if err := victim.Host.Mend(); err != nil {
		return err
	}
	victim.Start()
	return nil
}

// invoker kills an invoker on whose node calls run.
func (r *recovery) invoker(ctx context.Context, _ int) error {
	var victim *cluster.Process
	lost, err := r.holdAndLose(ctx, func(busiest *cluster.Process) error {
		victim = busiest
		return victim.Kill()
	})
	if err != nil {
		return err
	}
	for _, took := range lost.calls {
		r.note(untilCallsKill, took)
	}
	victim.Start()
	return nil
}

// gateway kills one gateway while calls come by the other.
func (r *recovery) gateway(ctx context.Context, round int) error {
	gateways := r.cluster.Gateways
	victim, other := gateways[round%2], gateways[(round+1)%2]
	calls := r.startWarm(ctx, other)
	err := victim.Kill()
	pause(ctx, around)
	victim.Start()
	slowest, failed := calls.stop()
	r.note(untilGateway, slowest)
	r.failed[gatewayKilled] += failed
	return err
}

// nats kills the server that leads the stream of accepted events.
func (r *recovery) nats(ctx context.Context, _ int) error {
	victim, err := r.cluster.StreamLeader(ctx, wire.StreamEvents)
	if err != nil {
		return err
	}
	calls := r.startWarm(ctx, r.cluster.Gateways...)
	lost := time.Now()
	if err := victim.Kill(); err != nil {
		return err
	}
	var id wire.InvocationID
	if err := cluster.Poll(ctx, func() (err error) {
		id, err = r.accept(ctx, r.cluster.Gateways[0], 0)
		return err
	}); err != nil {
		return err
	}
	r.note(untilAccepted, time.Since(lost))
	if _, err := r.end(ctx, id); err != nil {
		return fmt.Errorf("the event: %w", err)
	}
	r.note(untilStreamRun, time.Since(lost))
	pause(ctx, around)
	victim.Start()
	slowest, failed := calls.stop()
	r.note(untilNATSCall, slowest)
	r.failed[natsKilled] += failed
	return nil
}
