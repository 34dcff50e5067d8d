package guard_test

import (
	"testing"
	"time"
)

// BenchmarkArm is what a warm call pays for its guard.
func BenchmarkArm(b *testing.B) {
	g, err := newGuard("")
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	c, err := contain()
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // it was killed
		_ = c.process.Close()
	}()
	h, err := g.Watch(c)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Release()
	b.ReportAllocs()
	for b.Loop() {
		deadline := time.Now().Add(time.Hour)
		h.Arm(deadline)
		h.Disarm(deadline)
	}
}
