package embedtest_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// tiedChild makes this program one that starts another, says which, and waits.
const tiedChild = "DAYFLY_TEST_TIED"

func TestMain(m *testing.M) {
	if os.Getenv(tiedChild) != "" {
		if err := startAndStop(); err != nil {
			fmt.Println(err)
		}
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // it is the tests' main
}

// startAndStop starts a program that it stops, and waits for the end of its input.
func startAndStop() error {
	cmd := exec.Command("sleep", "600")
	wait, err := embedtest.StartTied(cmd)
	if err != nil {
		return err
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return wait()
}

// TestStartTied: a program that is stopped ends with the process that started it.
func TestStartTied(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), tiedChild+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	wait, err := embedtest.StartTied(parent)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Error(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := wait(); err == nil {
		t.Error("it was killed and ended well")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent says %q", line)
	}
	embedtest.Eventually(t, "what it had started has ended", func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(state), ") Z ") // nobody may reap it
	})
}
