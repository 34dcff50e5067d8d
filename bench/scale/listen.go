package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/wire"
)

// openScheduler is a scheduler that leads.
func openScheduler(ctx context.Context, conn *bus.Conn) (part, func(), error) {
	s, err := fleet.StartScheduler(ctx, conn, quiet())
	if err != nil {
		return nil, nil, err
	}
	do := func(ctx context.Context, _ *bus.Conn, q question) (a answer, err error) {
		switch q.Do {
		case "count":
			known, err := s.Known()
			return answer{Count: int64(known)}, err
		case "lead":
			begun := time.Now()
			for !s.Leads() && err == nil {
				err = pause(ctx, time.Millisecond)
			}
			return answer{Took: []time.Duration{time.Since(begun)}}, err
		}
		return a, fmt.Errorf("the scheduler cannot do %q", q.Do)
	}
	return do, func() { _ = s.Stop(context.WithoutCancel(ctx)) }, nil
}

// callSubject asks the gateway for a call that waits.
const callSubject = "bench.scale.call"

// noMeter hears of nothing.
type noMeter struct{}

func (noMeter) Waited(time.Duration, dispatch.End) {}

// openGateway is a gateway's dispatcher.
func openGateway(ctx context.Context, conn *bus.Conn) (part, func(), error) {
	d := dispatch.New(conn, nil, noMeter{}, quiet())
	if err := d.Start(ctx); err != nil {
		return nil, nil, err
	}
	last := make(chan struct{})
	close(last)
	sub, err := conn.Subscribe(callSubject, "", func(m bus.Msg) {
		<-last
		over := make(chan struct{})
		last = over
		go func() {
			defer close(over)
			call(ctx, d)
		}()
		state := awaitCall(ctx, d, over)
		_ = m.Respond([]byte(state)) // who asks finds out
	})
	if err != nil {
		return nil, nil, err
	}
	do := func(_ context.Context, _ *bus.Conn, q question) (answer, error) {
		if q.Do != "count" {
			return answer{}, fmt.Errorf("the gateway cannot do %q", q.Do)
		}
		return answer{Count: int64(len(d.Nodes()))}, nil
	}
	stop := func() {
		sub.Stop(conn)
		_ = d.Stop(context.WithoutCancel(ctx))
	}
	return do, stop, nil
}

// What became of a call that was asked for.
const (
	callWaits = "waits"
	// callRan: the gateway had not heard yet that there is no instance any more.
	callRan = "ran"
)

// awaitCall returns once a call waits, or is over.
func awaitCall(ctx context.Context, d *dispatch.Dispatcher, over <-chan struct{}) string {
	for d.Waiting() == 0 {
		select {
		case <-over:
			return callRan
		default:
		}
		if pause(ctx, time.Millisecond/10) != nil {
			return callRan
		}
	}
	return callWaits
}

// call waits for an instance of a version that no scheduler can start.
func call(ctx context.Context, d *dispatch.Dispatcher) {
	_, _ = d.Invoke(ctx, dispatch.Call{ // the node says whether it came
		Invocation: "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6", Concurrency: 1, Timeout: time.Minute, Payload: []byte("{}"),
		Place: wire.PlaceRequest{
			Version: probeVersion(), Runtime: "python", Needs: wire.Resources{MemoryBytes: room, CPUMillis: 10}, MaxInstances: 1,
			Protocol: wire.Protocol,
		},
	})
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
