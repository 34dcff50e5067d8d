package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
)

// childVariable makes this program a part of the cluster that is measured: its value is
// the part's name.
const childVariable = "DAYFLY_BENCH_SCALE_CHILD"

// natsVariable is where the child finds NATS.
const natsVariable = "DAYFLY_BENCH_SCALE_NATS"

// question is a line that a child reads, and answer the one that it writes then.
type question struct {
	// Do is what to do; see the parts.
	Do string `json:"do"`
	// Nodes is how many are simulated, Mode how they speak.
	Nodes int  `json:"nodes,omitempty"`
	Mode  mode `json:"mode,omitempty"`
	// For is how long.
	For time.Duration `json:"for,omitempty"`
}

type answer struct {
	Error string `json:"error,omitempty"`
	Usage usage  `json:"usage"`
	// Count and Bytes are what the part counts.
	Count int64 `json:"count,omitempty"`
	Bytes int64 `json:"bytes,omitempty"`
	// Given is how many runs of nodes the scheduler gave up.
	Given int64 `json:"given,omitempty"`
	// Took is how long each try was, or the whole.
	Took  []time.Duration `json:"took,omitempty"`
	Other []time.Duration `json:"other,omitempty"`
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

// runChild is the whole of a child: it answers questions until its input ends.
func runChild(ctx context.Context, role string, in io.Reader, out io.Writer) error {
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
	do, stop, err := open(ctx, conn)
	if err != nil {
		return err
	}
	defer stop()
	lines, replies := bufio.NewScanner(in), json.NewEncoder(out)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return err
		}
		var a answer
		if q.Do != "usage" {
			if a, err = do(ctx, conn, q); err != nil {
				a.Error = err.Error()
			}
		}
		a.Usage = use(q.Do == "heap")
		if err := replies.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

// child is a process of this program.
type child struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies *json.Decoder
}

func startChild(ctx context.Context, role, nats string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childVariable+"="+role, natsVariable+"="+nats)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{cmd: cmd, in: in, replies: json.NewDecoder(out)}, nil
}

func (c *child) ask(q question) (a answer, err error) {
	line, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return a, err
	}
	if err := c.replies.Decode(&a); err != nil {
		return a, fmt.Errorf("a part of the cluster ended: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// stop ends the child and waits for it.
func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait() // it was asked to end
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
