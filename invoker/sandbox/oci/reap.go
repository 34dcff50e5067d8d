package oci

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// process is what /proc says of one.
type process struct {
	pid, parent, session int
	name                 string
	state                byte
}

// readProcess reads /proc/PID/stat.
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, err
	}
	return parseStat(data)
}

// parseStat reads "PID (NAME) STATE PARENT GROUP SESSION …"; a name may contain
// anything.
func parseStat(data []byte) (p process, err error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return p, errors.New("malformed process status")
	}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 4 {
		return p, errors.New("malformed process status")
	}
	p.name, p.state = string(data[open+1:end]), fields[0][0]
	var errPID, errParent, errSession error
	p.pid, errPID = strconv.Atoi(strings.TrimSpace(string(data[:open])))
	p.parent, errParent = strconv.Atoi(fields[1])
	p.session, errSession = strconv.Atoi(fields[3])
	return p, errors.Join(errPID, errParent, errSession)
}

// adopt makes sure that a container's first process is our child. crun forks
// twice to make it; the process in between, its parent, is an orphan that came to
// us, nearly at its end, and whose ID nobody tells.
func (p program) adopt(pid int) {
	p.firsts.add(pid)
	if !p.forksTwice {
		return
	}
	first, err := readProcess(pid)
	if err == nil && first.parent != os.Getpid() {
		_ = wait(first.parent, 0)
		return
	}
	p.reapHelpers()
}

// reapHelpers reaps such processes in between that have ended. They are the
// children that bear the program's name and whose session is neither ours, as that
// of all that we start ourselves, nor their own, as a container's.
func (p program) reapHelpers() {
	session, err := unix.Getsid(0)
	if err != nil || !p.forksTwice {
		return
	}
	children, err := os.ReadFile(childrenFile())
	if err != nil {
		return // New made sure that it is there
	}
	name := p.name[:min(len(p.name), 15)] // as much as the kernel keeps
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		if err != nil || p.firsts.has(pid) {
			continue
		}
		c, err := readProcess(pid)
		if err == nil && c.state == 'Z' && c.name == name && c.session != session && c.session != pid {
			_ = wait(pid, unix.WNOHANG)
		}
	}
}

// pids is a set of process IDs, safe for concurrent use.
type pids struct {
	mu  sync.Mutex
	set map[int]struct{} // guarded by mu
}

func (p *pids) add(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set[pid] = struct{}{}
}

func (p *pids) remove(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.set, pid)
}

func (p *pids) has(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.set[pid]
	return ok
}

// childrenFile lists the children of our first thread, to which orphans come.
func childrenFile() string {
	self := strconv.Itoa(os.Getpid())
	return "/proc/" + self + "/task/" + self + "/children"
}

// wait reaps a child.
func wait(pid, options int) error {
	for {
		if _, err := unix.Wait4(pid, nil, options, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
