// Command function is what the tests of whole clusters call: it answers with its event,
// after the time that the event says, or never. The name of its process says since when
// it runs an event, so that whoever looks at the machine sees one that runs for too long,
// whatever has become of the node.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

type order struct {
	ID string `json:"id"`
	// Millis is how long it takes.
	Millis int `json:"millis,omitempty"`
	// Spins makes it never end, and Fails make it fail.
	Spins bool `json:"spins,omitempty"`
	Fails bool `json:"fails,omitempty"`
}

func main() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := name("idle"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	dayfly.Start(handle)
}

func handle(_ context.Context, o order) (_ order, err error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return o, err
	}
	if err := name(fmt.Sprintf("%x", now.Nano()/int64(time.Millisecond))); err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, name("idle")) }()
	for spins := o.Spins; spins; spins = o.Spins { //nolint:revive // it uses up its processor
	}
	time.Sleep(time.Duration(o.Millis) * time.Millisecond)
	if o.Fails {
		return o, errors.New("it always fails")
	}
	return o, nil
}

// name gives the process a name, which has room for 15 bytes.
func name(text string) error { return os.WriteFile("/proc/self/comm", []byte("fn-"+text), 0) }
