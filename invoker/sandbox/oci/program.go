package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// runTimeout bounds one run of the runtime's program. It is not cut short by the
// context of a start: half a container is harder to remove than a whole one.
const runTimeout = 30 * time.Second

// program is an OCI runtime's.
type program struct {
	name, path string
	null       *os.File // its input and output, and the container's
	// forksTwice says that it leaves us a process to reap; see adopt.
	forksTwice bool
	firsts     *pids // the containers' first processes, which are not such
}

func newProgram(path string, null *os.File) program {
	name := filepath.Base(path)
	return program{name: name, path: path, null: null, forksTwice: strings.HasPrefix(name, "crun"), firsts: &pids{set: map[int]struct{}{}}}
}

// run is the program while it makes a container.
type run struct {
	program program
	process *os.Process
	bundle  string
}

// start starts the program to make the container of a bundle.
func (p program) start(state, bundle string) (*run, error) {
	r := &run{program: p, bundle: bundle}
	var err error
	r.process, err = os.StartProcess(p.path, []string{
		p.path, "--root", state, "--log", r.logFile(), "--log-format", "json",
		"run", "--detach", "--pid-file", r.pidFile(), "--bundle", bundle, filepath.Base(bundle),
	}, &os.ProcAttr{
		Dir: bundle,
		// Nothing of ours: runtimes heed some variables of service managers.
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{p.null, p.null, p.null},
		// The terminal's interrupt is for us, who bring to an end what has begun.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: OCI runtime: %w", sandbox.ErrUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("oci: %w", err)
	}
	return r, nil
}

func (r *run) logFile() string { return filepath.Join(r.bundle, "log") }
func (r *run) pidFile() string { return filepath.Join(r.bundle, "pid") }

// wait waits for the program's end, and returns the ID of the container's first
// process, which is our child from then on.
func (r *run) wait() (pid int, err error) {
	name := r.program.name
	limit := time.AfterFunc(runTimeout, func() { _ = r.process.Kill() })
	state, err := r.process.Wait()
	switch {
	case !limit.Stop():
		err = fmt.Errorf("oci: %s did not make a container within %s", name, runTimeout)
	case err != nil:
		err = fmt.Errorf("oci: %s: %w", name, err)
	case !state.Success():
		log, _ := os.ReadFile(r.logFile()) // it may have had nothing to say
		err = fmt.Errorf("oci: %s: %s: %s", name, state, lastMessage(log))
	}
	if err != nil {
		r.program.reapHelpers()
		return 0, err
	}
	text, err := os.ReadFile(r.pidFile())
	if err == nil {
		pid, err = strconv.Atoi(string(bytes.TrimSpace(text)))
	}
	if err != nil {
		return 0, fmt.Errorf("oci: process ID of a container: %w", err)
	}
	r.program.adopt(pid)
	return pid, nil
}

// lastMessage returns the message of the last line of a runtime's log.
func lastMessage(log []byte) string {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	last := lines[len(lines)-1]
	var entry struct{ Msg string }
	if json.Unmarshal(last, &entry) == nil && entry.Msg != "" {
		return entry.Msg
	}
	return string(last)
}
