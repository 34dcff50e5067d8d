package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/child"
	"github.com/dayfly-run/dayfly/internal/bus"
)

// natsVariable is where the child finds NATS.
const natsVariable = "DAYFLY_BENCH_SCALE_NATS"

// question is a line that a child reads, and answer the one that it writes then.
type question struct {
	// Do is what to do; see the parts.
	Do string `json:"do"`
	// Nodes is how many are simulated, Mode how they speak.
	Nodes int  `json:"nodes,omitempty"`
	Mode  mode `json:"mode,omitempty"`
	// Tries is how often a way is timed.
	Tries int `json:"tries,omitempty"`
}

type answer struct {
	Error string `json:"error,omitempty"`
	Usage usage  `json:"usage"`
	// Count and Bytes are what the part counts.
	Count int64 `json:"count,omitempty"`
	Bytes int64 `json:"bytes,omitempty"`
	// Given is how many runs of nodes the scheduler gave up.
	Given int64 `json:"given,omitempty"`
	// Took is how long each try was, or the whole. With an error these are the tries
	// before it.
	Took []time.Duration `json:"took,omitempty"`
}

// usage is what a process has used so far.
type usage struct {
	CPU  time.Duration `json:"cpu"`
	Heap int64         `json:"heap"`
	At   time.Time     `json:"at"`
}

// use measures this process. Whole says that garbage is collected first.
func use(whole bool) usage {
	var u usage
	if whole {
		runtime.GC()
		runtime.GC() // what finalizers kept
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		u.Heap = int64(m.HeapAlloc) //nolint:gosec // it is far from that large
	}
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // it cannot fail
	u.CPU, u.At = time.Duration(r.Utime.Nano()+r.Stime.Nano()), time.Now()
	return u
}

// share is the part of a core that was used between two moments.
func (u usage) share(before usage) float64 {
	return float64(u.CPU-before.CPU) / float64(u.At.Sub(before.At))
}

// part answers the questions of one child.
type part func(ctx context.Context, conn *bus.Conn, q question) (answer, error)

// serve is the whole of a child: it answers questions until its input ends.
func serve(ctx context.Context, role string, in io.Reader, out io.Writer) error {
	open, ok := map[string]func(context.Context, *bus.Conn) (part, func(), error){
		"fleet": openFleet, "scheduler": openScheduler, "gateway": openGateway, "cache": openCache,
	}[role]
	if !ok {
		return fmt.Errorf("there is no part %q", role)
	}
	conn, err := bus.Connect(bus.Config{URL: os.Getenv(natsVariable), Name: "scale " + role}, quiet())
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	do, stop, err := open(ctx, conn)
	if err != nil {
		return err
	}
	defer stop()
	questions := make(chan []byte)
	go func() {
		defer cancel() // nobody waits for an answer any more
		for lines := bufio.NewScanner(in); lines.Scan(); {
			select {
			case questions <- bytes.Clone(lines.Bytes()):
			case <-ctx.Done():
				return
			}
		}
	}()
	for replies := json.NewEncoder(out); ; {
		select {
		case <-ctx.Done():
			return nil
		case line := <-questions:
			if err := reply(ctx, do, conn, line, replies); err != nil {
				return err
			}
		}
	}
}

func reply(ctx context.Context, do part, conn *bus.Conn, line []byte, replies *json.Encoder) error {
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return err
	}
	var a answer
	if q.Do != "usage" {
		var err error
		if a, err = do(ctx, conn, q); err != nil {
			a.Error = err.Error()
		}
	}
	a.Usage = use(q.Do == "heap")
	return replies.Encode(a)
}

// proc is a part of the cluster in a process of its own.
type proc struct {
	*child.Child

	replies *json.Decoder
}

// startPart starts a part; who does stops it.
func startPart(ctx context.Context, role, nats string) (*proc, error) {
	c, err := child.Start(ctx, role, natsVariable+"="+nats)
	if err != nil {
		return nil, err
	}
	return &proc{c, json.NewDecoder(c.Out)}, nil
}

// ask has a part do something. What the part itself fails with is an error beside its answer.
func (p *proc) ask(q question) (a answer, err error) {
	line, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if _, err := p.In.Write(append(line, '\n')); err != nil {
		return a, err
	}
	if err := p.replies.Decode(&a); err != nil {
		return a, fmt.Errorf("a part of the cluster ended: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
