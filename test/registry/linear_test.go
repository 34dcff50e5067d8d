package registry_test

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	clients = 5
	// operations is how many each client begins, at most: fewer versions come of them
	// than a function keeps. Those that get no answer make the search long.
	operations = 60
	// patience is how long a client waits for an answer.
	patience = 5 * time.Second
	// checkBound limits the search for an order.
	checkBound = 2 * time.Minute
)

var function = wire.FunctionID{Namespace: "default", Name: "thumbnail"}

// history is what all clients did and saw.
type history struct {
	begun time.Time

	mu         sync.Mutex // guards what follows
	operations []porcupine.Operation
}

func (h *history) now() int64 { return time.Since(h.begun).Nanoseconds() }

func (h *history) add(client int, in input, out output, called int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: called, Return: h.now()})
}

// all returns the operations, then the end. Those without an answer may happen after it.
func (h *history) all() (list []porcupine.Operation, lost int) {
	at := h.now()
	for _, o := range h.operations {
		if o.Output.(output).lost {
			o.Return = at + 2
			lost++
		}
		list = append(list, o)
	}
	return append(list, porcupine.Operation{ClientId: clients, Input: input{verb: end}, Output: output{}, Call: at, Return: at + 1}), lost
}

// writer is a client that changes the function.
type writer struct {
	id       int
	registry *registry.Registry
	history  *history
	known    functions.Function // as it was last seen
}

// outcome turns an error into what the client knows; ok is false when it knows that
// nothing was asked.
func outcome(f functions.Function, err error) (out output, ok bool) {
	switch {
	case err == nil:
		return output{after: stateOf(f)}, true
	case wire.HasCode(err, wire.CodeUnavailable):
		return output{lost: true, after: stateOf(f)}, f.Name != ""
	case wire.HasCode(err, wire.CodeConflict) && wire.AsError(err).Retryable: // too many at once: nothing was written
		return output{}, false
	}
	return output{refused: wire.AsError(err).Code}, true
}

// version chooses one of those that were seen.
func (c *writer) version() int {
	if len(c.known.Versions) == 0 {
		return 1
	}
	return c.known.Versions[rand.IntN(len(c.known.Versions))]
}

func (c *writer) one(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now, called := time.Now(), c.history.now()
	switch rand.IntN(6) {
	case 0:
		c.deploy(ctx)
		return
	case 1, 2:
		a := functions.Alias{Version: c.version()}
		if other := c.version(); other != a.Version && rand.IntN(2) == 0 {
			a.Weights = map[int]int{other: 1 + rand.IntN(99)}
		}
		name, in := wire.LiveAlias, input{verb: setLive, to: pointerOf(a)}
		if rand.IntN(2) == 0 {
			name, in.verb = "prod", setProd
		}
		f, _, err := c.registry.SetAlias(ctx, function, name, a, now)
		c.saw(in, f, err, called, nil)
	case 3:
		to := 0
		if rand.IntN(2) == 0 {
			to = c.version()
		}
		done, err := c.registry.Rollback(ctx, function, to, now)
		c.saw(input{verb: rollback, number: to}, done.Function, err, called, func(out *output) { out.from, out.to = done.From, done.To })
	default:
		f, err := c.registry.Function(ctx, function)
		if wire.HasCode(err, wire.CodeUnavailable) {
			return // a question without an answer says nothing
		}
		if wire.HasCode(err, wire.CodeNotFound) {
			f, err = functions.Function{}, nil // the model begins with one that has nothing
		}
		c.saw(input{verb: read}, f, err, called, nil)
	}
}

// saw notes an outcome; more adds what the verb tells besides.
func (c *writer) saw(in input, f functions.Function, err error, called int64, more func(*output)) {
	out, ok := outcome(f, err)
	if !ok {
		return
	}
	if err == nil {
		c.known = f
		if more != nil {
			more(&out)
		}
	}
	c.history.add(c.id, in, out, called)
}

// deploy registers a version and makes it live, as a gateway does.
func (c *writer) deploy(ctx context.Context) {
	called := c.history.now()
	spec := functions.Spec{Runtime: functions.RuntimePython, Handler: "app.handler"}
	d, err := c.registry.Register(ctx, function, spec, functions.Artifact{Code: noCode}, time.Now())
	if d.Version.Number == 0 || err != nil && !wire.HasCode(err, wire.CodeUnavailable) {
		return // nothing of it is listed
	}
	c.saw(input{verb: register, number: d.Version.Number}, d.Function, err, called, nil)
	if err != nil {
		return
	}
	called = c.history.now()
	d, err = c.registry.Promote(ctx, d.Version, time.Now())
	c.saw(input{verb: promote, number: d.Version.Number}, d.Function, err, called, func(out *output) { out.moved = d.Live })
}

const noCode = wire.Digest("0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a")

// TestRegistryIsLinearizable: whatever clients did to one function while servers went and
// came, there is an order in which all of it happened.
func TestRegistryIsLinearizable(t *testing.T) {
	t.Parallel()
	cluster := embedtest.NATSProcesses(t)
	h := &history{begun: time.Now()}
	var running sync.WaitGroup
	var done atomic.Int64 // operations
	for id := range clients {
		opened, err := registry.Open(t.Context(), cluster.Connect(t))
		if err != nil {
			t.Fatal(err)
		}
		c := &writer{id: id, registry: opened, history: h}
		running.Go(func() {
			for range operations {
				c.one(t.Context())
				done.Add(1)
			}
		})
	}
	// Each server goes once while clients work, the one that leads the registry first.
	leader := max(cluster.Leader("KV_"+wire.BucketFunctions), 0)
	for i := range cluster.Servers() {
		at := done.Load() + clients*operations/6
		embedtest.Eventually(t, "the clients work", func() bool { return done.Load() >= min(at, clients*operations) })
		server := (leader + i) % cluster.Servers()
		cluster.KillServer(server)
		cluster.StartServer(server)
		cluster.AwaitSettled(t)
	}
	running.Wait()
	list, lost := h.all()
	switch result, info := porcupine.CheckOperationsVerbose(model, list, checkBound); result {
	case porcupine.Ok:
		t.Logf("%d operations, %d of them without an answer", len(list), lost)
	case porcupine.Unknown:
		t.Fatalf("no order of %d operations, %d without an answer, was found or ruled out within %s", len(list), lost, checkBound)
	case porcupine.Illegal:
		t.Errorf("there is no order in which %d operations, %d of them without an answer, can have happened", len(list), lost)
		explain(t, info, list)
	}
}

// explain shows where the longest order that was found ends, and what does not follow.
func explain(t *testing.T, info porcupine.LinearizationInfo, all []porcupine.Operation) {
	t.Helper()
	var longest []porcupine.Operation
	for _, orders := range info.PartialLinearizationsOperations() {
		for _, order := range orders {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	at, in := state{}, map[int64]bool{}
	for _, o := range longest {
		_, at = step(at, o.Input.(input), o.Output.(output))
		in[o.Call] = true
	}
	for _, o := range longest[max(0, len(longest)-5):] {
		t.Logf("client %d: %s [%d to %d]", o.ClientId, model.DescribeOperation(o.Input, o.Output), o.Call, o.Return)
	}
	t.Logf("now it is %+v, and none of these can follow:", at)
	rest := slices.DeleteFunc(slices.Clone(all), func(o porcupine.Operation) bool { return in[o.Call] })
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, o := range rest[:min(len(rest), 2*clients)] {
		t.Logf("client %d: %s [%d to %d]", o.ClientId, model.DescribeOperation(o.Input, o.Output), o.Call, o.Return)
	}
}

// TestModelRefuses: the check can fail: a deploy that takes live from a later one, and an
// alias that is forgotten, are found.
func TestModelRefuses(t *testing.T) {
	two := state{versions: "1 2 ", latest: 2, decided: 2, previous: 1, live: pointer{version: 2}}
	back := two
	back.live, back.previous = pointer{version: 1}, 2
	history := func(outs ...porcupine.Operation) []porcupine.Operation {
		for i := range outs {
			outs[i].Call, outs[i].Return = int64(2*i), int64(2*i+1)
		}
		return outs
	}
	one := state{versions: "1 ", latest: 1, decided: 1, live: pointer{version: 1}}
	begin := []porcupine.Operation{
		{Input: input{verb: register, number: 1}, Output: output{after: state{versions: "1 ", latest: 1}}},
		{Input: input{verb: promote, number: 1}, Output: output{moved: true, after: one}},
		{Input: input{verb: register, number: 2}, Output: output{after: state{versions: "1 2 ", latest: 2, decided: 1, live: pointer{version: 1}}}},
		{Input: input{verb: promote, number: 2}, Output: output{moved: true, after: two}},
	}
	for name, test := range map[string]struct {
		last porcupine.Operation
		want bool
	}{
		"read what is":            {porcupine.Operation{Input: input{verb: read}, Output: output{after: two}}, true},
		"read what was":           {porcupine.Operation{Input: input{verb: read}, Output: output{after: one}}, false},
		"a late deploy stays out": {porcupine.Operation{Input: input{verb: promote, number: 1}, Output: output{after: two}}, true},
		"a late deploy wins":      {porcupine.Operation{Input: input{verb: promote, number: 1}, Output: output{moved: true, after: back}}, false},
		"a rollback":              {porcupine.Operation{Input: input{verb: rollback}, Output: output{from: 2, to: 1, after: back}}, true},
		"a lost rollback":         {porcupine.Operation{Input: input{verb: rollback}, Output: output{lost: true, after: back}}, true},
		"an alias to nothing":     {porcupine.Operation{Input: input{verb: setProd, to: pointer{version: 3}}, Output: output{after: two}}, false},
	} {
		if got := porcupine.CheckOperations(model, history(append(append([]porcupine.Operation{}, begin...), test.last)...)); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
