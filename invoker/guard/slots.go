package guard

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxHolds bounds the containers that one guard watches.
const maxHolds = 1 << 16

// slots is memory that invoker and guard share: one deadline for each container, in
// nanoseconds of the kernel's monotonic clock, 0 for none. Pages that nobody touched
// take no memory. It stays mapped for the
// life of the process, so that no late call can miss it. It is safe for concurrent use.
type slots struct{ deadlines []int64 }

// newSlots makes the memory and the file by which another process maps it.
func newSlots() (*slots, *os.File, error) {
	fd, err := unix.MemfdCreate("dayfly-guard", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("make memory to share: %w", err)
	}
	file := os.NewFile(uintptr(fd), "dayfly-guard")
	if err := file.Truncate(maxHolds * 8); err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("make memory to share: %w", err)
	}
	s, err := mapSlots(fd)
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return s, file, nil
}

// mapSlots maps what newSlots made.
func mapSlots(fd int) (*slots, error) {
	mapped, err := unix.Mmap(fd, 0, maxHolds*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("share memory: %w", err)
	}
	//nolint:gosec // a page begins where an int64 may
	first := (*int64)(unsafe.Pointer(unsafe.SliceData(mapped)))
	return &slots{deadlines: unsafe.Slice(first, maxHolds)}, nil //nolint:gosec // so long is what was mapped
}

func (s *slots) store(slot int, deadline int64) { atomic.StoreInt64(&s.deadlines[slot], deadline) }
func (s *slots) load(slot int) int64            { return atomic.LoadInt64(&s.deadlines[slot]) }

// monotonic reads the kernel's clock, which all processes share, in nanoseconds.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it cannot fail: the clock exists
	return now.Nano()
}

// clock tells what the kernel's monotonic clock says at a time of ours, without asking
// it.
type clock struct {
	at    time.Time
	nanos int64
}

func newClock() clock { return clock{at: time.Now(), nanos: monotonic()} }

func (c clock) nanosAt(t time.Time) int64 { return c.nanos + int64(t.Sub(c.at)) }
