package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/test/cluster"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// timeout is that of all functions.
	timeout = 2500 * time.Millisecond
	// maxInstances of each function are what two processors start in a moment.
	maxInstances = 8
	// Of calls and events come so many in a second, whatever becomes of them.
	callsPerSecond, eventsPerSecond = 12, 5
	// patience is how long a caller waits, far beyond what is promised, so that it can
	// tell by how much the promise was broken.
	patience = 60 * time.Second
	// resend is when a caller sends an event again that nobody accepted.
	resend = 300 * time.Millisecond
	// askBound limits one look at what became of an event.
	askBound = 10 * time.Second
	// failAttempts are so many that faults leave the function one of its own.
	failAttempts = 5
)

// The functions of the load.
const (
	echoes = "echo" // called
	works  = "work" // gets events
	fails  = "fail" // gets events, and fails
)

func deploy(ctx context.Context, c *cluster.Cluster) error {
	for name, attempts := range map[string]int{echoes: 1, works: functions.MaxAttempts, fails: failAttempts} {
		err := c.Deploy(ctx, name, func(s *functions.Spec) {
			s.TimeoutMillis, s.MaxInstances = timeout.Milliseconds(), maxInstances
			s.Retry = functions.RetrySpec{
				Attempts: attempts, MaxAgeMillis: functions.DefaultEventAge.Milliseconds(), Backoff: functions.BackoffConstant, DelayMillis: 200,
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// order is an event of these tests, and what the functions answer with.
type order struct {
	ID     string `json:"id"`
	Millis int    `json:"millis,omitempty"`
	Spins  bool   `json:"spins,omitempty"`
	Fails  bool   `json:"fails,omitempty"`
}

// call is a call over HTTP and what came of it.
type call struct {
	order
	gateway        string
	sent, answered time.Time
	reply
	err error
}

// reply is an HTTP response; its zero value is none.
type reply struct {
	status int
	body   string
	// start is what its instance took to start, for a call that had to wait for that.
	start time.Duration
}

func (c call) String() string {
	outcome := fmt.Sprintf("%d %s", c.status, c.body)
	if c.status == 0 {
		outcome = fmt.Sprint(c.err)
	}
	return fmt.Sprintf("call %s (%d ms, spins: %t) at %s by %s, after %s, %s of them to start an instance: %s",
		c.ID, c.Millis, c.Spins, c.sent.Format(clockFormat), c.gateway, c.answered.Sub(c.sent).Round(time.Millisecond), c.start.Round(time.Millisecond), outcome)
}

const clockFormat = "15:04:05.000"

// event is an event that was sent until it was accepted.
type event struct {
	order
	accepted wire.InvocationID // empty when it never was
	at       time.Time
}

// load calls and sends events until it is stopped.
type load struct {
	cluster *cluster.Cluster
	name    string // begins all IDs
	random  *rand.Rand

	quit  chan struct{}
	ended sync.WaitGroup

	mu     sync.Mutex // guards what follows
	calls  []call
	events []event
}

func startLoad(ctx context.Context, c *cluster.Cluster, name string, seed uint64) *load {
	l := &load{cluster: c, name: name, random: rand.New(rand.NewPCG(seed, 1)), quit: make(chan struct{})}
	l.ended.Go(func() { l.run(ctx) })
	return l
}

// stop sends no more, and waits for the answers.
func (l *load) stop() {
	close(l.quit)
	l.ended.Wait()
}

func (l *load) run(ctx context.Context) {
	calls, events := time.NewTicker(time.Second/callsPerSecond), time.NewTicker(time.Second/eventsPerSecond)
	defer calls.Stop()
	defer events.Stop()
	gateways := l.cluster.Gateways
	for n := 0; ; n++ {
		gateway := gateways[n%len(gateways)]
		o := order{ID: fmt.Sprintf("%s-%d", l.name, n)}
		select {
		case <-l.quit:
			return
		case <-calls.C:
			switch dice := l.random.IntN(40); {
			case dice == 0:
				o.Spins = true
			case dice < 8:
				o.Millis = l.random.IntN(1500)
			default:
				o.Millis = l.random.IntN(20)
			}
			l.ended.Go(func() {
				done := l.call(ctx, gateway, o)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.calls = append(l.calls, done)
			})
		case <-events.C:
			o.Millis = l.random.IntN(200)
			o.Fails = l.random.IntN(10) == 0
			l.ended.Go(func() {
				done := l.send(ctx, n, o)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.events = append(l.events, done)
			})
		}
	}
}

func (l *load) results() ([]call, []event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls, l.events
}

// call calls the echo once.
func (l *load) call(ctx context.Context, gateway *cluster.Process, o order) call {
	done := call{order: o, gateway: gateway.Name, sent: time.Now()}
	done.reply, done.err = post(ctx, l.cluster, gateway, echoes, o)
	done.answered = time.Now()
	return done
}

// send sends an event under one key, by one gateway after the other, until it is accepted
// or nobody has taken it for a long time.
func (l *load) send(ctx context.Context, n int, o order) event {
	sent := event{order: o}
	function := works
	if o.Fails {
		function = fails
	}
	gateways := l.cluster.Gateways
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for ; bounded.Err() == nil; n++ {
		if id, err := accept(bounded, l.cluster, gateways[n%len(gateways)], function, o); err == nil {
			sent.accepted, sent.at = id, time.Now()
			return sent
		}
		pause(bounded, resend)
	}
	return sent
}

// accept sends an event under its own key.
func accept(ctx context.Context, c *cluster.Cluster, gateway *cluster.Process, function string, o order) (wire.InvocationID, error) {
	event, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	return c.Accept(ctx, gateway, function, o.ID, event)
}

// ended fails unless an event has come to the end that its order deserves.
func ended(ctx context.Context, c *cluster.Cluster, gateway *cluster.Process, e event) error {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	r, err := c.Record(ctx, gateway, e.accepted)
	if err != nil {
		return err
	}
	if err := fate(e.order, r); err != nil || e.Fails {
		return err
	}
	left, err := c.Output(ctx, gateway, e.accepted)
	if err == nil && !echoed(string(left), e.order) {
		err = fmt.Errorf("false success: it left %s", left)
	}
	return err
}

// post calls a function with an order.
func post(ctx context.Context, c *cluster.Cluster, gateway *cluster.Process, function string, o order) (got reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	event, err := json.Marshal(o)
	if err != nil {
		return got, err
	}
	answer, err := c.Invoke(ctx, gateway, function, event, nil)
	if err != nil {
		return got, err
	}
	if text := answer.Header.Get(wire.HeaderInitMicros); answer.Header.Get(wire.HeaderCold) == "true" {
		micros, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return got, fmt.Errorf("header %s: %w", wire.HeaderInitMicros, err)
		}
		got.start = time.Duration(micros) * time.Microsecond
	}
	got.status, got.body = answer.Status, string(answer.Body)
	return got, nil
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
