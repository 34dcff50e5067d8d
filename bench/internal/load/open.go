package load

import (
	"context"
	"runtime"
	"syscall"
	"time"
)

// Open sends requests at a fixed rate for a while, whatever the answers do, over
// at most n connections. A latency counts from the moment at which the request
// was due: a request that had to wait for a free connection was late, and the
// wait is a part of what a user would have seen.
func Open(ctx context.Context, t Target, n int, perSecond float64, length time.Duration) (Result, error) {
	total := int(perSecond * length.Seconds())
	due := make(chan time.Time, total) // holds them all: the pacer never waits
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go pace(ctx, due, total, perSecond)
	return run(ctx, t, n, length, func() (time.Time, bool) {
		at, ok := <-due
		return at, ok
	})
}

// pace sends each moment when it has come. It sleeps in the kernel by itself,
// because the Go scheduler may oversleep by a millisecond.
func pace(ctx context.Context, due chan<- time.Time, total int, perSecond float64) {
	defer close(due)
	// Unlocked at the end: a thread that ends takes along what it started.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	setTimerSlack(time.Microsecond)
	defer setTimerSlack(0) // the usual one again
	// A little later than now, so that the clients are ready.
	begun := time.Now().Add(5 * time.Millisecond)
	for i := range total {
		at := begun.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if wait := time.Until(at); wait > 0 {
			pause := syscall.NsecToTimespec(wait.Nanoseconds())
			_ = syscall.Nanosleep(&pause, nil) // a signal makes one request early
		}
		if ctx.Err() != nil {
			return
		}
		due <- at
	}
}

// prSetTimerSlack is PR_SET_TIMERSLACK of prctl(2).
const prSetTimerSlack = 29

// setTimerSlack says how late this thread's sleeps may end; usual are 50 µs. If it
// fails, latencies are that much longer, which the result shows.
func setTimerSlack(d time.Duration) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, uintptr(d.Nanoseconds()), 0)
}
