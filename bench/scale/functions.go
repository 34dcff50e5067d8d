package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// openCache is what a gateway, an events worker and a scheduler have of functions.
func openCache(ctx context.Context, conn *bus.Conn) (part, func(), error) {
	r, err := registry.Open(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	cache := registry.NewCache(r, quiet())
	do := func(ctx context.Context, _ *bus.Conn, q question) (a answer, err error) {
		switch q.Do {
		case "heap":
			a.Count = int64(len(cache.List("")))
		case "start":
			begun := time.Now()
			err = cache.Start(ctx)
			a.Took = []time.Duration{time.Since(begun)}
		case "changes":
			a.Took, err = timeChanges(ctx, r, cache, q.Tries)
		default:
			err = fmt.Errorf("the cache cannot do %q", q.Do)
		}
		return a, err
	}
	return do, func() { _ = cache.Stop(context.WithoutCancel(ctx)) }, nil
}

// timeChanges measures from a deploy's last write until the cache has it.
func timeChanges(ctx context.Context, r *registry.Registry, cache *registry.Cache, tries int) (took []time.Duration, err error) {
	for i := range tries {
		d, err := r.Deploy(ctx, wire.FunctionID{Namespace: "late", Name: fmt.Sprint("f", i)}, plainSpec(), artifact(i), time.Now())
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := cache.Await(ctx, d.Revision); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

func plainSpec() functions.Spec {
	return functions.Spec{
		Runtime: functions.RuntimePython, Handler: "app.handler", MemoryBytes: functions.DefaultMemoryBytes, CPUMillis: functions.DefaultCPUMillis,
		TimeoutMillis: functions.DefaultTimeout.Milliseconds(), Concurrency: functions.DefaultConcurrency, MaxInstances: functions.DefaultMaxInstances,
		Env: map[string]string{"LOG_LEVEL": "info", "SIZE": "128"}, Isolation: functions.DefaultIsolation, Network: functions.DefaultNetwork,
	}
}

func artifact(i int) functions.Artifact {
	return functions.Artifact{Code: wire.Digest(fmt.Sprintf("%064x", i)), CodeBytes: 4096}
}

// register writes functions as deploys leave them, each with so many versions.
func register(ctx context.Context, bucket *bus.Bucket, count, versions int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range count {
		group.Go(func() error {
			now := time.Now()
			id := wire.FunctionID{Namespace: fmt.Sprint("team-", i%100), Name: fmt.Sprintf("function-%06d", i)}
			f := functions.Function{FunctionID: id, CreatedAt: now}
			for n := 1; n <= versions; n++ {
				f.Add(n, now)
				f.Promote(n, now)
				v := functions.Version{VersionID: wire.VersionID{FunctionID: id, Number: n}, Spec: plainSpec(), Artifact: artifact(i), CreatedAt: now}
				if err := write(ctx, bucket, wire.VersionKey(v.VersionID), v); err != nil {
					return err
				}
			}
			return write(ctx, bucket, wire.FunctionKey(id), f)
		})
	}
	return group.Wait()
}

func write(ctx context.Context, bucket *bus.Bucket, key string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		_, err = bucket.Create(ctx, key, data)
	}
	return err
}

// measureFunctions prints what functions cost that are registered and not called.
func measureFunctions(ctx context.Context, s settings, out io.Writer) error {
	t := table.Table{
		Title: fmt.Sprintf("%d functions that are only registered", s.functions),
		Columns: []string{
			"versions of each", "heap a function: gateway, events worker, scheduler", "must", "stretch", "NATS server, heap a function",
			"start of the copy", "of it its own CPU", "a change is seen, p50 / p99",
		},
	}
	for _, versions := range []int{1, 3} {
		if err := functionRow(ctx, &t, s, versions); err != nil {
			return err
		}
	}
	if err := t.Print(out); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nAn invoker and a builder have no copy: they keep nothing of a function that does not run there.")
	return err
}

func functionRow(ctx context.Context, t *table.Table, s settings, versions int) (err error) {
	server, stop, err := startNATS()
	if err != nil {
		return err
	}
	defer stop()
	conn, err := bus.Connect(bus.Config{InProcess: server, Name: "scale"}, quiet())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := registry.Open(ctx, conn); err != nil {
		return err
	}
	bucket, err := conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketFunctions, MaxValueBytes: 256 << 10})
	if err != nil {
		return err
	}
	natsBefore := use(true)
	if err := register(ctx, bucket, s.functions, versions); err != nil {
		return err
	}
	natsAfter := use(true)
	c, err := startPart(ctx, "cache", server.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	before, err := c.ask(question{Do: "heap"})
	if err != nil {
		return err
	}
	started, err := c.ask(question{Do: "start"})
	if err != nil {
		return err
	}
	after, err := c.ask(question{Do: "heap"})
	if err != nil {
		return err
	}
	if int(after.Count) != s.functions {
		return fmt.Errorf("the copy has %d functions of %d", after.Count, s.functions)
	}
	changes, err := c.ask(question{Do: "changes", Tries: s.tries})
	if err != nil {
		return err
	}
	each := float64(after.Usage.Heap-before.Usage.Heap) / float64(s.functions)
	must, kept := (&table.Bound{Limit: 4096, Unit: "B"}).Show(each)
	stretch, reached := (&table.Bound{Limit: 2048, Unit: "B"}).Show(each)
	t.Row(strconv.Itoa(versions), fmt.Sprintf("%.0f B", each), strings.TrimSpace(must+" "+kept), strings.TrimSpace(stretch+" "+reached),
		fmt.Sprintf("%.0f B", float64(natsAfter.Heap-natsBefore.Heap)/float64(s.functions)),
		table.Millis(started.Took[0]), table.Millis(started.Usage.CPU-before.Usage.CPU), percentiles(changes.Took))
	return nil
}
