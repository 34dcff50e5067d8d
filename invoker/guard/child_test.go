package guard

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ends makes the two ends of a channel for messages, which close with the test.
func ends(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	ours, theirs, err := pair()
	must(t, err)
	t.Cleanup(func() {
		_ = ours.Close() // it may be closed
		_ = theirs.Close()
	})
	return ours, theirs
}

// A process that is replaced never sees the end of its connection: it would take the
// invoker for dead.
func TestProcessEndsBeforeItsConnection(t *testing.T) {
	ours, theirs := ends(t)
	exited := make(chan struct{})
	c := &child{conn: ours, exited: exited, kill: func() {
		if hostproc.Readable(int(theirs.Fd()), 0) {
			t.Error("it sees the end before it is killed")
		}
		close(exited)
	}}
	c.end()
	if _, _, err := receive(int(theirs.Fd())); !errors.Is(err, errGone) {
		t.Errorf("afterwards the connection is open: %v", err)
	}
}

// What cannot be understood is an error, and its descriptor does not stay open.
func TestMessagesThatAreWrong(t *testing.T) {
	for name, test := range map[string]struct {
		data   string
		rights bool
	}{
		"no message":                   {data: "{"},
		"no message with a descriptor": {data: "{", rights: true},
		"a watch without a descriptor": {data: `{"op":"watch"}`},
		"a descriptor for nothing":     {data: `{"op":"forget"}`, rights: true},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := ends(t)
			reader, writer, err := os.Pipe()
			must(t, err)
			defer reader.Close()
			var rights []byte
			if test.rights {
				rights = unix.UnixRights(int(writer.Fd()))
			}
			_, _, err = ours.WriteMsgUnix([]byte(test.data), rights, nil)
			must(t, err)
			must(t, writer.Close())
			if _, fd, err := receive(int(theirs.Fd())); err == nil || errors.Is(err, errGone) || fd != -1 {
				t.Errorf("descriptor %d, %v", fd, err)
			}
			left, err := io.ReadAll(reader) // to the end, which comes once nobody has the writer
			if err != nil || len(left) != 0 {
				t.Errorf("%q, %v", left, err)
			}
		})
	}
}

// A guard that does not know what to watch ends, and says that it did not go well.
func TestGuardThatMissesSomething(t *testing.T) {
	_, memory, err := newSlots()
	must(t, err)
	defer memory.Close()
	ours, theirs := ends(t)
	cmd := exec.Command(os.Args[0], Command, "error", "text")
	cmd.ExtraFiles = []*os.File{theirs, memory}
	must(t, cmd.Start())
	must(t, send(ours, message{Op: opWatch}))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
}
