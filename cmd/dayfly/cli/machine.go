package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what doctor sees of a machine; tests make others up.
type machine struct {
	root     fs.FS // of /
	user     int
	release  string // of the kernel
	files    uint64 // that a process may open
	unsynced bool   // nobody sets the clock
	data     string // where --data is or will be
	free     uint64 // bytes there
	look     func(program string) (string, error)
	engine   func(context.Context) error // asks the Docker Engine
}

// thisMachine is the one that the program runs on. What cannot be asked counts as none.
func thisMachine(data string) machine {
	m := machine{root: os.DirFS("/"), user: os.Geteuid(), data: data, look: exec.LookPath, engine: askEngine}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.release = unix.ByteSliceToString(name.Release[:])
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.files = limit.Max // which Go programs raise theirs to
	}
	var clock unix.Timex
	if state, err := unix.Adjtimex(&clock); err == nil {
		m.unsynced = state == unix.TIME_ERROR || clock.Status&unix.STA_UNSYNC != 0
	}
	var disk unix.Statfs_t
	if unix.Statfs(existing(data), &disk) == nil {
		m.free = disk.Bavail * uint64(disk.Bsize)
	}
	return m
}

// existing returns the path, or the nearest folder above that is there.
func existing(path string) string {
	path, err := filepath.Abs(path)
	for err == nil && path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return "/"
}

// engineSocket is where a Docker Engine listens.
const engineSocket = "/var/run/docker.sock"

// askEngine asks the Docker Engine whether it is there.
func askEngine(ctx context.Context) error {
	socket := engineSocket
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		path, local := strings.CutPrefix(host, "unix://")
		if !local {
			return fmt.Errorf("DOCKER_HOST=%s is no socket of this machine", host)
		}
		socket = path
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, machineBound)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", socket, resp.Status)
	}
	return nil
}

// Kernels since 5.12 can mount code into a running container.
const kernelMajor, kernelMinor = 5, 12

func (m machine) system() finding {
	f := finding{Name: "system", Verdict: verdictOK, Text: "Linux " + m.release}
	major, rest, _ := strings.Cut(m.release, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, errMajor := strconv.Atoi(major)
	b, errMinor := strconv.Atoi(minor)
	switch {
	case errors.Join(errMajor, errMinor) == nil && (a < kernelMajor || a == kernelMajor && b < kernelMinor):
		f.Verdict, f.Mend = verdictFail, fmt.Sprintf("nodes need Linux %d.%d or later", kernelMajor, kernelMinor)
	case m.user != 0:
		f.Verdict, f.Text = verdictWarn, fmt.Sprintf("%s, and you are user %d", f.Text, m.user)
		f.Mend = "a node mounts code and sets limits: run dayfly up or dayfly invoker as root"
	}
	return f
}

func (m machine) containers(ctx context.Context) finding {
	f := finding{Name: "containers", Verdict: verdictOK}
	missing := m.engine(ctx)
	runtime := ""
	for _, program := range []string{"crun", "runc"} {
		if path, err := m.look(program); err == nil {
			runtime = path
			break
		}
	}
	switch {
	case missing == nil && runtime != "":
		f.Text = "a Docker Engine answers, and there is " + runtime + " for --sandbox oci"
	case missing == nil:
		f.Text = "a Docker Engine answers"
	case runtime != "":
		f.Text = runtime + " for --sandbox oci; no Docker Engine answers"
	default:
		f.Verdict, f.Text = verdictFail, fmt.Sprintf("no Docker Engine answers (%s), and there is neither crun nor runc", missing)
		f.Mend = "install one of them: apt-get install crun, or https://docs.docker.com/engine/install"
	}
	return f
}

// controllers are those that functions' limits need.
var controllers = []string{"cpu", "memory", "pids"}

func (m machine) controlGroups() finding {
	f := finding{Name: "control groups", Verdict: verdictOK, Text: "version 1"}
	var there []string
	if data, err := fs.ReadFile(m.root, "sys/fs/cgroup/cgroup.controllers"); err == nil {
		f.Text, there = "version 2", strings.Fields(string(data))
	} else {
		for _, name := range controllers {
			if _, err := fs.Stat(m.root, "sys/fs/cgroup/"+name); err == nil {
				there = append(there, name)
			}
		}
	}
	var missing []string
	for _, name := range controllers {
		if !slices.Contains(there, name) {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		f.Verdict, f.Text = verdictFail, f.Text+" without "+strings.Join(missing, ", ")
		f.Mend = "mount them, or add to the kernel's command line: cgroup_enable=memory systemd.unified_cgroup_hierarchy=1"
	} else {
		f.Text += " with " + strings.Join(controllers, ", ")
	}
	return f
}

// wantedFiles is how many files a process should be able to open: a node has a few for
// each instance, a gateway one for each connection.
const wantedFiles = 65_536

func (m machine) openFiles() finding {
	f := finding{Name: "open files", Verdict: verdictOK, Text: fmt.Sprintf("up to %d", m.files)}
	if m.files < wantedFiles {
		f.Verdict, f.Mend = verdictWarn, fmt.Sprintf("raise it: ulimit -n %d, or LimitNOFILE=%d in the unit", wantedFiles, wantedFiles)
	}
	return f
}

// Least and wanted bytes of memory and disk.
const (
	leastMemory, wantedMemory = 256 << 20, 1 << 30
	leastDisk, wantedDisk     = 1 << 30, 5 << 30
)

func (m machine) memory() finding {
	f := finding{Name: "memory"}
	data, err := fs.ReadFile(m.root, "proc/meminfo")
	_, rest, found := strings.Cut(string(data), "MemAvailable:")
	fields := strings.Fields(rest)
	if err != nil || !found || len(fields) == 0 {
		f.Verdict, f.Text = verdictWarn, "how much is free is not known"
		return f
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64) // what is no number is none
	return f.room(kib<<10, leastMemory, wantedMemory, "free", "stop what takes it, or give functions less with --memory")
}

func (m machine) disk() finding {
	return finding{Name: "disk"}.room(int64(min(m.free, 1<<62)), leastDisk, wantedDisk, "free for "+m.data,
		"make room, or name another folder with --data")
}

func (f finding) room(bytes, least, wanted int64, what, mend string) finding {
	f.Verdict, f.Text = verdictOK, humanBytes(bytes)+" "+what
	switch {
	case bytes < least:
		f.Verdict, f.Mend = verdictFail, mend
	case bytes < wanted:
		f.Verdict, f.Mend = verdictWarn, mend
	}
	return f
}

func (m machine) clock() finding {
	if m.unsynced {
		return finding{
			Name: "clock sync", Verdict: verdictWarn, Text: "nobody sets this machine's clock",
			Mend: "timedatectl set-ntp true, or install chrony",
		}
	}
	return finding{Name: "clock sync", Verdict: verdictOK, Text: "the clock is kept right"}
}

func (m machine) program(name, what, mend string) finding {
	path, err := m.look(name)
	if err != nil {
		return finding{Name: name, Verdict: verdictWarn, Text: "not found; " + what, Mend: mend}
	}
	return finding{Name: name, Verdict: verdictOK, Text: path}
}
