package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/bench/internal/trace"
)

// crowd is a trace in which several functions are called at once, more than fit.
func crowd() *trace.Trace {
	t := &trace.Trace{Days: 1}
	for range 20 {
		t.Functions = append(t.Functions, trace.Function{Bytes: 100 * mib})
	}
	for i := range int32(1500) {
		t.Calls = append(t.Calls, trace.Call{
			AtMicros: int64(i) * 200_000, RunMillis: 500 + i*7919%9000, Function: i * i % 20,
		})
	}
	return t
}

// Every call is counted once, no policy overcommits a node, and the same trace gives the
// same outcome.
func TestSimulationAccounts(t *testing.T) {
	made := crowd()
	for _, one := range contenders() {
		s := setupFor(made, traceOptions{hours: 1, nodes: 6, idle: time.Minute}, 50, one.zones)
		got, err := simulate(made, one.make(), s)
		if err != nil {
			t.Errorf("%s: %v", one.name, err)
			continue
		}
		if got.calls() != len(made.Calls) || got.code > got.cold || got.stem > got.cold || got.hottest > 1 || got.uneven < 1 {
			t.Errorf("%s: %+v", one.name, got)
		}
		again, err := simulate(made, one.make(), s)
		if diff := cmp.Diff(got, again, cmp.AllowUnexported(outcome{})); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", one.name, err, diff)
		}
	}
}

// A full cluster refuses, whatever the policy.
func TestSimulationRefuses(t *testing.T) {
	made := crowd()
	for _, one := range contenders() {
		s := setupFor(made, traceOptions{hours: 1, nodes: 3, idle: time.Minute}, 50, one.zones)
		s.nodeBytes = 300 * mib
		got, err := simulate(made, one.make(), s)
		if err != nil || got.refused == 0 || got.calls() != len(made.Calls) {
			t.Errorf("%s: %+v, %v", one.name, got, err)
		}
	}
}

func TestTables(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-parts=memory,nats,trace", "-sizes=100", "-n=1", "-span=50ms", "-functions=20", "-busy=30"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Decisions in memory, 100 nodes", "| nodeSelector that 1 % match", "Placements over NATS", "| 100 ",
		"20 functions, ", "On a trace: 10 nodes, 30 % of their memory", "| Dayfly, slack ", "| least loaded, 3 zones ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-parts=x"}, {"-sizes=0"}, {"-sizes="}, {"-busy=99"}, {"-nodes=2"}, {"-n=0"}, {"-span=-1s"}, {"-parts=memory,x"}, {"-stretch=2000000000"}, {"-hours=9000000000"}, {"memory"}} {
		if _, _, err := parse(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

// Calls never run for less time because they are stretched.
func TestStretch(t *testing.T) {
	o := traceOptions{functions: 20, hours: 1, stretch: 1}
	plain, err := openTrace(o, 1)
	if err != nil {
		t.Fatal(err)
	}
	o.stretch = maxStretch
	long, err := openTrace(o, 1)
	if err != nil || len(long.Calls) != len(plain.Calls) || len(plain.Calls) == 0 {
		t.Fatalf("%d calls of %d, %v", len(long.Calls), len(plain.Calls), err)
	}
	for i, call := range plain.Calls {
		if want := min(int64(call.RunMillis)*maxStretch, math.MaxInt32); int64(long.Calls[i].RunMillis) != want {
			t.Fatalf("%d ms become %d, want %d", call.RunMillis, long.Calls[i].RunMillis, want)
		}
	}
}
