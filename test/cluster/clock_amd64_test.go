package cluster

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// clockChild makes this program one that tells the time whenever it is asked.
const clockChild = "DAYFLY_CLUSTER_CLOCK"

func TestMain(m *testing.M) {
	if os.Getenv(clockChild) != "" {
		for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
			fmt.Fprintln(os.Stdout, time.Now().UnixMilli())
		}
		os.Exit(0) //nolint:forbidigo // TestMain is the main of a test
	}
	os.Exit(m.Run()) //nolint:forbidigo // as above
}

// TestShiftClock: the wall clock of one process jumps there and back, and ours stays.
func TestShiftClock(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), clockChild+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	lines := bufio.NewReader(out)
	off := func() time.Duration {
		t.Helper()
		var millis int64
		before := time.Now()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscanln(lines, &millis); err != nil {
			t.Fatal(err)
		}
		return time.UnixMilli(millis).Sub(before).Round(time.Hour)
	}
	for _, want := range []time.Duration{0, 48 * time.Hour, -time.Hour, 0} {
		if want != 0 || off() != 0 {
			if err := shiftClock(cmd.Process.Pid, want); err != nil {
				t.Fatal(err)
			}
		}
		if got := off(); got != want {
			t.Errorf("the clock is off by %s, want %s", got, want)
		}
	}
}
