package garbage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// s3 is the one S3 server of this process; set before any test runs.
var s3 *s3server.Server

func TestMain(m *testing.M) {
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }))
}

const testGrace = time.Hour

// world is a bucket with a collector, a keeper and the references that the test makes.
type world struct {
	t     *testing.T
	conn  *bus.Conn
	store *blob.Store
	*Collector
	keeper  *Keeper
	prefix  string
	metrics *prometheus.Registry

	mu   sync.Mutex
	refs map[string]int // guarded by mu, as is err
	err  error          // what Used answers
	// before is what Used was told last; guarded by mu.
	before time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, conn: embedtest.Connect(t, embedtest.NATS(t, t.TempDir())), store: embedtest.Store(t, s3),
		refs: map[string]int{}, prefix: t.Name() + "/", metrics: prometheus.NewRegistry(),
	}
	w.Collector = New(Config{Grace: testGrace, Kinds: []Kind{{Prefix: w.prefix}}}, Deps{
		Conn: w.conn, Store: w.store, Used: w.used, Metrics: w.metrics, Log: embedtest.Discard(),
	})
	var err error
	if w.bucket, err = openNotes(t.Context(), w.conn); err != nil {
		t.Fatal(err)
	}
	if w.keeper, err = OpenKeeper(t.Context(), w.conn); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) used(_ context.Context, before time.Time) (map[string]bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = before
	used := map[string]bool{}
	for key, n := range w.refs {
		used[key] = n > 0
	}
	return used, w.err
}

func (w *world) refer(key string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs[key] += n
}

func (w *world) put(key string) {
	w.t.Helper()
	if err := w.store.PutBytes(w.t.Context(), key, []byte("bytes"), "text/plain"); err != nil {
		w.t.Error(err)
	}
}

func (w *world) exists(key string) bool {
	w.t.Helper()
	there, err := w.store.Exists(w.t.Context(), key)
	if err != nil {
		w.t.Error(err)
	}
	return there
}

// after makes a round some time from now.
func (w *world) after(d time.Duration) {
	w.t.Helper()
	now := time.Now().Add(d)
	if err := w.round(w.t.Context(), now); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := now.Add(-testGrace); !w.before.Equal(want) {
		w.t.Errorf("what was left behind before %s may go, want before %s", w.before, want)
	}
}

func TestWhatNothingRefersToGoesAfterTheGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	used, unused, foreign := w.prefix+"used", w.prefix+"unused", w.prefix+"a b"
	for _, key := range []string{used, unused, foreign} {
		w.put(key)
	}
	w.refer(used, 1)
	w.after(0) // notes
	w.after(testGrace - time.Minute)
	if !w.exists(unused) {
		t.Fatal("it went before its grace was over")
	}
	w.after(testGrace + time.Minute)
	if w.exists(unused) || !w.exists(used) || !w.exists(foreign) {
		t.Errorf("unused %t, used %t, foreign %t", w.exists(unused), w.exists(used), w.exists(foreign))
	}
	if families, err := w.metrics.Gather(); err != nil || len(families) != 2 || families[0].GetMetric()[0].GetCounter().GetValue() != 5 {
		t.Errorf("metrics %v, %v", families, err)
	}
	if notes, err := w.notes(t.Context()); err != nil || len(notes) > 0 {
		t.Errorf("notes %v, %v", notes, err)
	}
	// What was used goes once it is not any more, a grace after that was seen.
	w.refer(used, -1)
	w.after(testGrace + time.Minute)
	if !w.exists(used) {
		t.Fatal("it went at once")
	}
	w.after(2*testGrace + time.Minute)
	if w.exists(used) {
		t.Error("it stays for ever")
	}
}

// TestKeptObjectsStay: a kept object has a grace of its own, and its note goes at last.
func TestKeptObjectsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key, never := w.prefix+"key", w.prefix+"never-stored"
	w.put(key)
	w.after(0)
	before := time.Now()
	for _, k := range []string{key, never} {
		if err := w.keeper.Keep(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.round(t.Context(), before.Add(testGrace)); err != nil {
		t.Fatal(err)
	}
	if !w.exists(key) {
		t.Error("it was kept, and went")
	}
	w.after(testGrace + time.Minute)
	if notes, err := w.notes(t.Context()); err != nil || len(notes) > 0 || w.exists(key) {
		t.Errorf("notes %v, %v", notes, err)
	}
}

// TestNothingGoesWithoutReferences: while nobody knows what is used, all stays.
func TestNothingGoesWithoutReferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(w.prefix + "key")
	w.after(0)
	w.err = errors.New("the registry is away")
	if err := w.round(t.Context(), time.Now().Add(2*testGrace)); !errors.Is(err, w.err) || !w.exists(w.prefix+"key") {
		t.Errorf("error %v", err)
	}
}

// TestKeepWaitsForARemoval: who keeps an object that is being removed is told when that
// is over, and can store it again.
func TestKeepWaitsForARemoval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.prefix + "key"
	w.put(key)
	w.after(0)
	kept, begun := make(chan error, 1), make(chan struct{})
	w.paused = func() {
		go func() {
			close(begun)
			kept <- w.keeper.Keep(t.Context(), key)
		}()
		<-begun
		if there := w.exists(key); !there {
			t.Error("it went before its time")
		}
		select {
		case err := <-kept:
			t.Errorf("kept while it is being removed: %v", err)
		default:
		}
	}
	w.after(testGrace + time.Minute)
	if err := embedtest.Receive(t, kept); err != nil {
		t.Fatal(err)
	}
	if w.exists(key) {
		t.Error("it is still there")
	}
}

// TestRemovalThatStopsIsTakenOver: a collector that stops between the word and the deed
// holds nobody up, and does no harm when it goes on.
func TestRemovalThatStopsIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.prefix + "key"
	w.put(key)
	w.after(0)
	w.bound, w.keeper.takeover = 10*time.Millisecond, 50*time.Millisecond
	w.paused = func() {
		// Keep waits longer for the removal than that may take.
		if err := w.keeper.Keep(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	w.after(testGrace + time.Minute)
	if !w.exists(key) {
		t.Error("it was kept, and went")
	}
	// Another collector ends what one that died has begun.
	note, err := w.bucket.Get(t.Context(), key)
	if err == nil {
		_, err = w.bucket.Update(t.Context(), key, []byte(deleting), note.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.bound, w.paused = deleteBound, func() {}
	w.after(0)
	if !w.exists(key) {
		t.Error("it went while another one was at it")
	}
	w.after(takeover + time.Minute)
	if w.exists(key) {
		t.Error("nobody ended it")
	}
}

// TestOneOfManyMakesEachRound: the others see that it was made.
func TestOneOfManyMakesEachRound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := New(w.cfg, Deps{Conn: w.conn, Store: w.store, Used: w.used, Metrics: prometheus.NewRegistry(), Log: embedtest.Discard()})
	other.bucket = w.bucket
	for i, step := range []struct {
		c    *Collector
		want bool
	}{
		{w.Collector, true}, {w.Collector, true},
		{other, true},        // it knows of none
		{w.Collector, false}, // that was the other's
		{w.Collector, true},  // and the other is late
		{other, false}, {other, true},
	} {
		begun, at, err := step.c.begin(t.Context())
		if err != nil || begun != step.want || begun && time.Since(at).Abs() > time.Minute {
			t.Errorf("step %d: %t at %s, %v", i, begun, at, err)
		}
	}
}

// TestCollectorRuns: it starts and stops, again and again.
func TestCollectorRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoLiveArtifactIsEverMissing: deploys that reuse each other's artifacts, and delete
// them again, run against collectors that stop at any moment. A grace passes only while
// no deploy is under way, as none takes so long; what was referred to is there always.
func TestNoLiveArtifactIsEverMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const deployers, deploys, artifacts, collectors = 4, 80, 12, 2
	artifact := func(n int) string { return fmt.Sprintf("%scode-%d", w.prefix, n) }
	stop := func() { <-time.After(rand.N(4 * time.Millisecond)) }
	stopLong := func() { <-time.After(rand.N(15 * time.Millisecond)) }
	var gate sync.RWMutex // read by deploys; written where a grace passes
	passed := time.Now()  // guarded by gate
	ctx, cancel := context.WithCancel(t.Context())
	var collecting, deploying sync.WaitGroup
	for range collectors {
		c := New(w.cfg, Deps{Conn: w.conn, Store: w.store, Used: w.used, Metrics: prometheus.NewRegistry(), Log: embedtest.Discard()})
		c.bucket, c.paused = w.bucket, stopLong
		collecting.Go(func() {
			for ctx.Err() == nil {
				gate.Lock()
				passed = time.Now()
				now := passed.Add(testGrace)
				gate.Unlock()
				stop() // deploys go on meanwhile
				if err := c.round(ctx, now); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	deploy := func(key string) {
		gate.RLock()
		defer gate.RUnlock()
		if err := w.keeper.Keep(t.Context(), key); err != nil {
			t.Error(err)
			return
		}
		stop()
		if !w.exists(key) {
			w.put(key)
		}
		stop()
		w.refer(key, 1)
	}
	for range deployers {
		deploying.Go(func() {
			for range deploys {
				key := artifact(rand.N(artifacts))
				deploy(key)
				for range 3 {
					if !w.exists(key) {
						t.Errorf("%s is live, and not there", key)
					}
					stop()
				}
				w.refer(key, -1) // the function is deleted
			}
		})
	}
	deploying.Wait()
	cancel()
	collecting.Wait()
	w.after(0)
	w.after(testGrace + time.Minute)
	for n := range artifacts {
		if w.exists(artifact(n)) {
			t.Errorf("%s is not live, and stays", artifact(n))
		}
	}
}
