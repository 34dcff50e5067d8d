package trace

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Shape is what the synthetic trace looks like. The sources of the figures in
// [PublishedShape] stand in README.md.
type Shape struct {
	Functions int
	Days      int
	Seed      uint64

	// HourlyShare and MinutelyShare are the parts of the functions that are called
	// at most once an hour and at most once a minute on average. A log-normal
	// distribution of calls a day goes through both points.
	HourlyShare, MinutelyShare float64
	// MaxCallsPerDay cuts that distribution: one node serves no more.
	MaxCallsPerDay float64

	// Triggers are the parts of the functions, by trigger; they add up to 1.
	Triggers []Share
	// TimerPeriods are the minutes between two calls of a timer, which has the period
	// next to what its popularity asks for.
	TimerPeriods []int

	// RunMu and RunSigma describe the log-normal distribution of a function's mean
	// run time, in seconds; RunSpread is the sigma of single calls around it.
	RunMu, RunSigma, RunSpread float64
	MaxRun                     time.Duration
	// MaxConcurrency bounds a function's mean number of busy instances: a popular
	// function with long runs would not fit on a node, so its runs are shortened.
	MaxConcurrency float64

	// MemoryMedian and MemoryP90 are points of the log-normal distribution of an app's
	// memory, in MiB, which is cut at MemoryMax; no function takes less than MemoryMin.
	MemoryMedian, MemoryP90, MemoryMin, MemoryMax float64

	// AppSizes are the parts of the apps that have so many functions. The app's memory
	// is split evenly among them.
	AppSizes []AppSize

	// ColdStartMedian and ColdStartSigma describe the log-normal distribution of the
	// functions' cold starts.
	ColdStartMedian time.Duration
	ColdStartSigma  float64

	// PollerShare of the functions that are neither timers nor queues are called
	// nearly periodically, but aligned to nothing; SessionShare of them in sessions.
	PollerShare, SessionShare float64
	// SessionCalls is the mean number of calls in a session, SessionGap the mean
	// time between two of them.
	SessionCalls float64
	SessionGap   time.Duration
	// BatchCalls is the mean number of calls that a queue gives in a row, BatchGap the
	// mean time between two of them.
	BatchCalls float64
	BatchGap   time.Duration
	// DailySwing is how far the rate goes up and down in a day, as part of its mean.
	DailySwing float64
}

// Share is a part of a whole.
type Share struct {
	Name string
	Part float64
}

// AppSize is the part of the apps that have so many functions.
type AppSize struct {
	Functions int
	Part      float64
}

// PublishedShape is that of the Azure Functions trace of 2019.
func PublishedShape() Shape {
	return Shape{
		Functions: 100, Days: 2, Seed: 1,
		HourlyShare: 0.45, MinutelyShare: 0.81, MaxCallsPerDay: 300_000,
		Triggers: []Share{
			{"http", 0.55}, {"queue", 0.152}, {"event", 0.022}, {"orchestration", 0.069},
			{"timer", 0.156}, {"storage", 0.028}, {"others", 0.023},
		},
		TimerPeriods: []int{1, 5, 10, 15, 30, 60, 360, 1440},
		RunMu:        -0.38, RunSigma: 2.36, RunSpread: 0.5, MaxRun: 5 * time.Minute, MaxConcurrency: 0.3,
		MemoryMedian: 170, MemoryP90: 400, MemoryMin: 32, MemoryMax: 1536,
		AppSizes:        []AppSize{{1, 0.54}, {2, 0.16}, {3, 0.10}, {4, 0.04}, {5, 0.04}, {8, 0.07}, {15, 0.05}},
		ColdStartMedian: 300 * time.Millisecond, ColdStartSigma: 0.5,
		PollerShare: 0.1, SessionShare: 0.45, SessionCalls: 8, SessionGap: 10 * time.Second,
		BatchCalls: 4, BatchGap: 2 * time.Second, DailySwing: 1.0 / 3,
	}
}

// z returns the standard normal quantile.
func z(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }

// popularity returns the calls a day of the i-th of n functions, least popular first.
func (s *Shape) popularity(i, n int) float64 {
	lo, hi := math.Log(24), math.Log(minutesPerDay)
	sigma := (hi - lo) / (z(s.MinutelyShare) - z(s.HourlyShare))
	mu := lo - sigma*z(s.HourlyShare)
	return min(math.Exp(mu+sigma*z((float64(i)+0.5)/float64(n))), s.MaxCallsPerDay)
}

// Synthesize makes a trace. The same shape makes the same trace.
func Synthesize(s Shape) (*Trace, error) {
	if s.Functions < 1 || s.Days < 1 {
		return nil, fmt.Errorf("a synthetic trace needs at least 1 function and 1 day, not %d and %d", s.Functions, s.Days)
	}
	g := &generator{
		Shape: s,
		rnd:   rand.New(rand.NewPCG(s.Seed, 0)), //nolint:gosec // a simulation must be repeatable
	}
	t := &Trace{Name: fmt.Sprintf("synthetic trace (seed %d)", s.Seed), Days: s.Days}
	triggers := g.triggers()
	for i, pos := range g.rnd.Perm(s.Functions) {
		perDay := s.popularity(pos, s.Functions)
		if float64(len(t.Calls))+perDay*float64(s.Days) > maxCalls {
			return nil, fmt.Errorf("more than %d calls: ask for fewer functions or days", maxCalls)
		}
		f := g.function(i, triggers[pos])
		meanRun := min(g.logNormal(s.RunMu, s.RunSigma), s.MaxRun.Seconds(), s.MaxConcurrency*day.Seconds()/perDay)
		for _, at := range g.arrivals(f.Trigger, perDay) {
			run := min(meanRun*g.logNormal(-s.RunSpread*s.RunSpread/2, s.RunSpread), s.MaxRun.Seconds())
			t.Calls = append(t.Calls, Call{AtMicros: int64(at * 1e6), RunMillis: max(1, int32(run*1e3)), Function: int32(i)})
		}
		t.Functions = append(t.Functions, f)
	}
	t.sort()
	return t, nil
}

type generator struct {
	Shape
	rnd *rand.Rand
	// app is the one whose functions are being made.
	app struct {
		memory          float64
		functions, left int
	}
}

func (g *generator) logNormal(mu, sigma float64) float64 {
	return math.Exp(mu + sigma*g.rnd.NormFloat64())
}

// triggers deals out the triggers by popularity: as many of each as its share asks
// for, at random, but timers only to functions that are called at most once a
// minute and at least every other day.
func (g *generator) triggers() []string {
	dealt := make([]string, g.Functions)
	var slow, rest []int
	for _, i := range g.rnd.Perm(g.Functions) {
		if perDay := g.popularity(i, g.Functions); perDay >= 0.5 && perDay <= minutesPerDay {
			slow = append(slow, i)
		} else {
			rest = append(rest, i)
		}
	}
	var others []string
	for _, share := range g.Triggers {
		n := int(math.Round(share.Part * float64(g.Functions)))
		if share.Name == "timer" {
			n = min(n, len(slow))
			for _, i := range slow[:n] {
				dealt[i] = share.Name
			}
			rest = append(rest, slow[n:]...)
			continue
		}
		others = append(others, slices.Repeat([]string{share.Name}, n)...)
	}
	g.rnd.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	for k, i := range rest {
		dealt[i] = "others" // what rounding leaves
		if k < len(others) {
			dealt[i] = others[k]
		}
	}
	return dealt
}

func (g *generator) function(i int, trigger string) Function {
	if g.app.left == 0 {
		g.newApp()
	}
	g.app.left--
	memory := max(g.app.memory/float64(g.app.functions), g.MemoryMin)
	return Function{
		Name: fmt.Sprintf("f%04d", i), Trigger: trigger,
		Bytes:     int64(memory) * mib,
		ColdStart: time.Duration(g.logNormal(math.Log(g.ColdStartMedian.Seconds()), g.ColdStartSigma) * float64(time.Second)),
	}
}

func (g *generator) newApp() {
	sigma := math.Log(g.MemoryP90/g.MemoryMedian) / z(0.9)
	g.app.memory = min(g.logNormal(math.Log(g.MemoryMedian), sigma), g.MemoryMax)
	u := g.rnd.Float64()
	for _, size := range g.AppSizes {
		g.app.functions = size.Functions
		if u -= size.Part; u < 0 {
			break
		}
	}
	g.app.left = g.app.functions
}

// arrivals returns the moments at which a function is called, in seconds.
func (g *generator) arrivals(trigger string, perDay float64) []float64 {
	switch trigger {
	case "timer":
		return g.timer(perDay)
	case "queue", "orchestration", "storage":
		return g.bursts(perDay, g.BatchCalls, g.BatchGap.Seconds())
	case "event":
		return g.bursts(perDay, 1, 0)
	}
	switch kind := g.rnd.Float64(); {
	case kind < g.PollerShare:
		return g.poller(perDay)
	case kind < g.PollerShare+g.SessionShare:
		return g.bursts(perDay, g.SessionCalls, g.SessionGap.Seconds())
	}
	return g.bursts(perDay, 1, 0)
}

func (g *generator) end() float64 { return float64(g.Days) * day.Seconds() }

// timer calls at full minutes, a moment later at most.
func (g *generator) timer(perDay float64) (at []float64) {
	want := minutesPerDay / perDay
	period := slices.MinFunc(g.TimerPeriods, func(a, b int) int {
		far := func(p int) float64 { return math.Abs(math.Log(float64(p) / want)) }
		return int(math.Copysign(1, far(a)-far(b)))
	})
	for m := g.rnd.IntN(period); m < g.Days*minutesPerDay; m += period {
		at = append(at, float64(m)*60+0.2*g.rnd.ExpFloat64())
	}
	return at
}

// poller calls at nearly equal distances.
func (g *generator) poller(perDay float64) (at []float64) {
	period := day.Seconds() / perDay
	for t := g.rnd.Float64() * period; t < g.end(); t += period * (1 + 0.02*g.rnd.NormFloat64()) {
		at = append(at, t)
	}
	return at
}

// bursts calls in groups that come at random moments, more by day than by night.
// A group has mean calls on average, gap seconds apart on average.
func (g *generator) bursts(perDay, mean, gap float64) (at []float64) {
	mean = max(1, min(mean, perDay/2)) // who is called twice a day is not called in groups of 8
	every := day.Seconds() / (perDay / mean) / (1 + g.DailySwing)
	for t := every * g.rnd.ExpFloat64(); t < g.end(); t += every * g.rnd.ExpFloat64() {
		rate := 1 + g.DailySwing*math.Sin(2*math.Pi*t/day.Seconds())
		if g.rnd.Float64()*(1+g.DailySwing) > rate {
			continue
		}
		for inGroup := t; inGroup < g.end(); inGroup += gap * g.rnd.ExpFloat64() {
			at = append(at, inGroup)
			if g.rnd.Float64()*mean < 1 {
				break
			}
		}
	}
	return at
}
