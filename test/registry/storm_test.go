package registry_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	stormDeploys   = 200
	stormFunctions = 10
	stormClients   = 8
	// stormTries bounds how often one deploy is tried again that failed because something
	// was away.
	stormTries = 100
	stormPause = 50 * time.Millisecond
)

// killsEnv is how often a builder and the server that leads the registry are killed, 1 to
// 3 times: see `make storm`.
const killsEnv = "DAYFLY_STORM_KILLS"

func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv(killsEnv)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 3 {
		t.Fatalf("%s=%s: use 1 to 3", killsEnv, text)
	}
	return n
}

// TestStormOfDeploys: clients deploy the same functions, while a builder and the server that
// leads the registry are killed. Every deploy that was answered has a version of its own,
// and every alias names one whose artifact is in S3.
func TestStormOfDeploys(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	kill := []func(){p.startBuilder(), p.startBuilder()}
	t.Cleanup(func() {
		for _, k := range kill {
			k()
		}
	})
	var next, done atomic.Int64
	var mu sync.Mutex
	answered := map[wire.FunctionID][]client.Deployment{}
	var running sync.WaitGroup
	for range stormClients {
		running.Go(func() {
			for n := next.Add(1); n <= stormDeploys; n = next.Add(1) {
				id := wire.FunctionID{Namespace: wire.DefaultNamespace, Name: fmt.Sprintf("storm-%d", n%stormFunctions)}
				d, err := p.deploy(id, fmt.Sprint(n))
				if err != nil {
					t.Errorf("deploy %d of %s: %v", n, id, err)
				} else {
					mu.Lock()
					answered[id] = append(answered[id], d)
					mu.Unlock()
				}
				done.Add(1)
			}
		})
	}
	stream := "KV_" + wire.BucketFunctions
	for i := range kills(t) { // evenly on the way
		embedtest.Eventually(t, "the storm goes on", func() bool { return done.Load() >= int64(i+1)*stormDeploys/4 })
		at := i % len(kill)
		kill[at]()
		leader := -1
		embedtest.Eventually(t, "the registry has a leader", func() bool { leader = p.cluster.Leader(stream); return leader >= 0 })
		p.cluster.KillServer(leader)
		p.cluster.StartServer(leader)
		p.cluster.AwaitSettled(t)
		kill[at] = p.startBuilder()
	}
	running.Wait()
	if n := done.Load(); n != stormDeploys {
		t.Errorf("%d deploys", n)
	}
	for id, deployed := range answered {
		p.consistent(id, deployed)
	}
	if len(answered) != stormFunctions {
		t.Errorf("%d functions", len(answered))
	}
}

// deploy deploys until it is answered. What comes of tries that were not is the platform's
// to keep in order.
func (p *platform) deploy(id wire.FunctionID, content string) (d client.Deployment, err error) {
	bundle, err := bundleOf(id, content)
	if err != nil {
		return d, err
	}
	pause := time.NewTicker(stormPause)
	defer pause.Stop()
	for range stormTries {
		d, err = p.client.Deploy(p.t.Context(), id.Namespace, bundle)
		switch e := wire.AsError(err); {
		case err == nil:
			return d, nil
		case e.Code != wire.CodeUnavailable && e.Code != wire.CodeConflict && e.Code != wire.CodeThrottled && e.Code != wire.CodeNoCapacity:
			return d, err
		}
		<-pause.C
	}
	return d, err
}

// consistent fails unless a function is as its deploys were told, and whole.
func (p *platform) consistent(id wire.FunctionID, deployed []client.Deployment) {
	t := p.t
	f, err := p.registry.Function(t.Context(), id)
	if err != nil {
		t.Error(err)
		return
	}
	if !slices.IsSorted(f.Versions) || len(slices.Compact(slices.Clone(f.Versions))) != len(f.Versions) {
		t.Errorf("%s lists versions %v", id, f.Versions)
	}
	numbers := map[int]bool{}
	highest := 0
	for _, d := range deployed {
		n := d.Version.Number
		// Where tries went wrong, there may be more versions than are kept.
		if numbers[n] || !f.Has(n) && len(f.Versions) < wire.MaxVersions {
			t.Errorf("%s: version %d was given out twice, or is not listed: %v", id, n, f.Versions)
		}
		numbers[n] = true
		if d.Live {
			highest = max(highest, n)
		} else if d.Note == "" {
			t.Errorf("%s: the deploy of version %d lost and was not told", id, n)
		}
	}
	// A later one may have been made live by a try that was not answered.
	if live := f.Aliases[wire.LiveAlias].Version; live < highest || live != f.Decided || live > f.Latest {
		t.Errorf("%s: live is %d, and %d was made live: %+v", id, live, highest, f)
	}
	for _, n := range f.Versions {
		v, err := p.registry.Version(t.Context(), wire.VersionID{FunctionID: id, Number: n})
		if err != nil {
			t.Errorf("%s lists version %d: %v", id, n, err)
			continue
		}
		if there, err := p.store.Exists(t.Context(), wire.CodeKey(v.Code)); !there || err != nil {
			t.Errorf("artifact %s of %s: %t, %v", v.Code, v.VersionID, there, err)
		}
	}
	embedtest.Eventually(t, "the gateway knows "+id.String(), func() bool {
		seen, list, err := p.cache.Versions(id)
		return err == nil && len(list) == len(f.Versions) && seen.Aliases[wire.LiveAlias].Version == f.Aliases[wire.LiveAlias].Version
	})
}
