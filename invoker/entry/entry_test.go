package entry_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/entry"
)

// TestMain makes this test program the one that is tested, when it is asked to be.
func TestMain(m *testing.M) {
	if entry.Wanted(os.Args) {
		os.Exit(entry.Run(os.Args)) //nolint:forbidigo // it is the tests' main
	}
	os.Exit(m.Run()) //nolint:forbidigo // as above
}

// become starts the program, gives it a text for an assignment, and returns what it
// printed and its exit code.
func become(t *testing.T, assignment []byte) (log string, code int) {
	t.Helper()
	dir := t.TempDir()
	logPath, pipe := filepath.Join(dir, "log"), filepath.Join(dir, "assignment")
	if err := errors.Join(unix.Mkfifo(logPath, 0o600), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], entry.Command, logPath, pipe)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := os.Open(logPath) // both opens wait for the program
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(assignment); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	printed, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(printed), cmd.ProcessState.ExitCode()
}

func encode(t *testing.T, a entry.Assignment) []byte {
	t.Helper()
	data, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBecomes(t *testing.T) {
	script := `echo "$0 $1 in $PWD with $A"; echo to stderr >&2; ls -l /proc/self/fd | grep -Ec "log$|assignment$"; exit 7`
	log, code := become(t, encode(t, entry.Assignment{
		Args: []string{"sh", "-c", script, "zero", "one\ntwo"}, Env: []string{"A=1 2", "PATH=/nowhere:/usr/bin:/bin"}, Dir: "/usr",
	}))
	// The log is stderr of ls, and its stdout is the pipe to grep; nothing else is open.
	if !strings.HasPrefix(log, "zero one\ntwo in /usr with 1 2\nto stderr\n1\n") || code != 7 {
		t.Errorf("it printed %q and ended with %d", log, code)
	}
}

func TestCannotBecome(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := []string{"PATH=/usr/bin:/bin"}
	for name, test := range map[string]struct {
		assignment []byte
		code       int
		says       string
	}{
		"no JSON":       {[]byte("exec /bin/sh"), 125, "could not be read"},
		"nothing":       {nil, 125, "could not be read"},
		"no program":    {encode(t, entry.Assignment{Dir: "/"}), 125, "names no program"},
		"no folder":     {encode(t, entry.Assignment{Args: []string{"sh"}, Env: path, Dir: "/no/such"}), 126, "working directory"},
		"not in PATH":   {encode(t, entry.Assignment{Args: []string{"no-such-program"}, Env: path, Dir: "/"}), 127, "no folder of PATH"},
		"no PATH":       {encode(t, entry.Assignment{Args: []string{"sh"}, Dir: "/"}), 127, "no folder of PATH"},
		"not there":     {encode(t, entry.Assignment{Args: []string{"/no/such"}, Dir: "/"}), 127, "/no/such"},
		"no executable": {encode(t, entry.Assignment{Args: []string{empty}, Dir: "/"}), 126, "executable for linux"},
	} {
		t.Run(name, func(t *testing.T) {
			if log, code := become(t, test.assignment); code != test.code || !strings.Contains(log, test.says) {
				t.Errorf("it printed %q and ended with %d; want %d with %q", log, code, test.code, test.says)
			}
		})
	}
}

func TestWanted(t *testing.T) {
	if entry.Wanted([]string{"dayfly", "invoke", "a", "b"}) || entry.Wanted([]string{"dayfly"}) || !entry.Wanted([]string{"dayfly", entry.Command, "a", "b"}) {
		t.Error("a command line is misread")
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	static := filepath.Join(dir, "static")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", static, "github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	target := filepath.Join(dir, "placed")
	for _, mode := range []os.FileMode{0o755, 0o700} { // as a second name, then as a copy
		if err := errors.Join(os.Chmod(static, mode), entry.Place(static, target)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(target)
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("placed with mode %v, %v", info.Mode(), err)
		}
		original, err := os.Stat(static)
		if err != nil || os.SameFile(info, original) != (mode == 0o755) {
			t.Errorf("a program of mode %o: same file %v, %v", mode, os.SameFile(info, original), err)
		}
	}
	if err := entry.Place("/bin/sh", target); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("a program with libraries: %v", err)
	}
	if err := entry.Place(filepath.Join(dir, "none"), target); err == nil {
		t.Error("a program that is not there was placed")
	}
}
