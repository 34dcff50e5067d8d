// Package machine says on what, and how busy, a benchmark ran.
package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
)

// busyLoad is the load average by core above which figures say little.
const busyLoad = 0.5

// Describe writes the date, the machine, its load and the versions that matter.
func Describe(ctx context.Context, w io.Writer) error {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return err
	}
	memory, err := field("/proc/meminfo", "MemTotal:")
	if err != nil {
		return err
	}
	average, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	docker := "no Docker Engine"
	if version, err := baseline.DockerVersion(ctx); err == nil {
		docker = "Docker " + version
	}
	var one, five, fifteen float64
	if _, err := fmt.Sscan(string(average), &one, &five, &fifteen); err != nil {
		return fmt.Errorf("/proc/loadavg: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s, %d cores (%s), %d GiB, kernel %s, %s, %s\nload average at the start: %.2f %.2f %.2f\n",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), processor(), (memory+(1<<19))>>20,
		text(name.Release[:]), docker, runtime.Version(), one, five, fifteen)
	if err == nil && one > busyLoad*float64(runtime.NumCPU()) {
		_, err = fmt.Fprintln(w, "This machine is busy with something else: trust the ratios more than the figures, and neither much.")
	}
	return err
}

// field returns a number in a file of /proc.
func field(path, name string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var n int64
	_, rest, _ := strings.Cut(string(data), name)
	if _, err := fmt.Sscan(rest, &n); err != nil {
		return 0, fmt.Errorf("%s: no %s", path, name)
	}
	return n, nil
}

// processor is the model's name, if the kernel knows one.
func processor() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func text(chars []int8) string {
	var b strings.Builder
	for _, c := range chars {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// quietWindow is that moment: five of the ticks in which the kernel counts.
const quietWindow = 50 * time.Millisecond

// AwaitQuiet waits until the processors did almost nothing for a moment, or until
// the bound is over: then somebody else uses them.
func AwaitQuiet(ctx context.Context, bound time.Duration) error {
	over := time.NewTimer(bound)
	defer over.Stop()
	window := time.NewTicker(quietWindow)
	defer window.Stop()
	before, err := busyTicks()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over.C:
			return nil
		case <-window.C:
		}
		now, err := busyTicks()
		if err != nil || now-before <= 1 {
			return err
		}
		before = now
	}
}

// busyTicks is how much processor time was used since the machine started, in ticks.
func busyTicks() (int64, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	var user, nice, system, idle, wait, irq, softIRQ int64
	if _, err := fmt.Sscanf(first, "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softIRQ); err != nil {
		return 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return user + nice + system + irq + softIRQ, nil
}
