package sandboxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// realTests are for sandboxes that run real programs.
func realTests() map[string]func(h *harness) {
	return map[string]func(h *harness){
		"KillsAll": testKillsAll, "KillsStorm": testKillsStorm, "RemoveKillsAll": testRemoveKillsAll,
		"NoSuchCommand": testNoSuchCommand, "NoSuchMount": testNoSuchMount, "NoBound": testNoBound,
		"OutOfMemory": testOutOfMemory, "PIDs": testPIDs, "OpenFiles": testOpenFiles, "FileBytes": testFileBytes, "CPU": testCPU,
		"Tmpfs": testTmpfs, "ReadOnly": testReadOnly, "WritableRoot": testWritableRoot,
		"Status": testStatus, "Privileges": testPrivileges, "Environment": testEnvironment,
		"LateMount": testLateMount, "SetLimits": testSetLimits,
		"NetworkNone": testNetworkNone, "ListenInside": testListenInside, "OpenDir": testOpenDir,
	}
}

func testKillsAll(h *harness) {
	spec := h.spec(probe("tree"))
	c := h.start(spec)
	ns := namespace(h.T, spec)
	// The tree is complete when its daemon lives, besides four children and itself.
	Eventually(h.T, patience, "all of the tree", func() bool {
		log := Log(h.T, spec)
		return strings.Count(log, "deaf") == 3 && strings.Count(log, "spin") == 2 && population(h.T, ns) >= 6
	})
	c.Kill()
	Eventually(h.T, killBound, "no process survives Kill", func() bool { return population(h.T, ns) == 0 })
	Await(h.T, c.Exited(), "the end after Kill")
}

func testKillsStorm(h *harness) {
	spec := h.spec(probe("storm"))
	c := h.start(spec)
	ns := namespace(h.T, spec)
	AwaitLog(h.T, spec, "ready")
	c.Kill()
	Eventually(h.T, killBound, "no process survives Kill", func() bool { return population(h.T, ns) == 0 })
	Await(h.T, c.Exited(), "the end after Kill")
	if exit := c.Exit(); exit.Code != 137 {
		h.Errorf("killed, it says %+v", exit)
	}
}

func testRemoveKillsAll(h *harness) {
	spec := h.spec(probe("tree"))
	c := h.start(spec)
	ns := namespace(h.T, spec)
	AwaitLog(h.T, spec, "ready")
	if err := c.Remove(h.ctx); err != nil {
		h.Fatal(err)
	}
	if n := population(h.T, ns); n != 0 {
		h.Errorf("%d processes outlive Remove", n)
	}
}

func testNoSuchCommand(h *harness) {
	if _, err := h.Start(h.ctx, h.spec([]string{"/no/such/program"})); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		h.Errorf("a command that is not there: %v", err)
	}
	if left, err := h.Sweep(h.ctx); err != nil || left != 0 {
		h.Errorf("%d containers are left; %v", left, err)
	}
}

func testNoSuchMount(h *harness) {
	spec := h.spec(Wait())
	missing := filepath.Join(h.TempDir(), "missing")
	spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: missing, Target: "/missing"})
	if _, err := h.Start(h.ctx, spec); err == nil || !strings.Contains(err.Error(), missing) {
		h.Errorf("a mount that is not there: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		h.Errorf("it was made: %v", err)
	}
	if left, err := h.Sweep(h.ctx); err != nil || left != 0 {
		h.Errorf("%d containers are left; %v", left, err)
	}
}

// testNoBound: what an engine would take as "no limit" is refused.
func testNoBound(h *harness) {
	for what, change := range map[string]func(*sandbox.Spec){
		"memory": func(s *sandbox.Spec) { s.Limits.MemoryBytes = 0 },
		"CPU":    func(s *sandbox.Spec) { s.Limits.CPUMillis = 0 },
		"PIDs":   func(s *sandbox.Spec) { s.Limits.PIDs = -1 },
		"files":  func(s *sandbox.Spec) { s.Limits.OpenFiles = 0 },
		"fsize":  func(s *sandbox.Spec) { s.Limits.FileBytes = 0 },
		"tmpfs":  func(s *sandbox.Spec) { s.Tmpfs[0].Bytes = 0 },
		"no command": func(s *sandbox.Spec) {
			s.Command = nil
		},
		"no digest": func(s *sandbox.Spec) { s.Root.Digest = "" },
		"network":   func(s *sandbox.Spec) { s.Network = "everything" },
	} {
		spec := h.spec(Wait())
		change(&spec)
		if c, err := h.Start(h.ctx, spec); err == nil {
			h.Errorf("%s: it was started; %v", what, c.Remove(h.ctx))
		}
	}
}

func testOutOfMemory(h *harness) {
	eat := func(mib string) (sandbox.Exit, string) {
		spec := h.spec(probe("eat", mib, "/out/eat"))
		c := h.start(spec)
		if err := os.WriteFile(filepath.Join(outOf(h.T, spec), "eat"), nil, 0o644); err != nil {
			h.Fatal(err)
		}
		Await(h.T, c.Exited(), "the container's end")
		return c.Exit(), Log(h.T, spec)
	}
	exit, log := eat("256")
	if want := (sandbox.Exit{Code: 137, OutOfMemory: true}); exit != want {
		h.Errorf("eating twice its memory ended with %+v: %s", exit, log)
	}
	if exit, log := eat("64"); exit.Code != 0 || !strings.Contains(log, "ate") {
		h.Errorf("eating half of its memory ended with %+v: %s", exit, log)
	}
}

// number returns the number behind a word in the probe's answer.
func number(t *testing.T, log, word string) int {
	t.Helper()
	_, rest, ok := strings.Cut(log, word+" ")
	digits, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		t.Fatalf("no number behind %q in %q", word, log)
	}
	return n
}

func testPIDs(h *harness) {
	log := h.run(probe("pids"))
	// Each process of the probe has some threads, and they count.
	if n := number(h.T, log, "pids"); n == 0 || n >= 64 || !strings.Contains(log, "temporarily unavailable") {
		h.Errorf("with a limit of 64: %s", log)
	}
}

func testOpenFiles(h *harness) {
	log := h.run(probe("files"))
	if n := number(h.T, log, "files"); n < 200 || n > 256 || !strings.Contains(log, "too many open files") {
		h.Errorf("with a limit of 256: %s", log)
	}
}

func testFileBytes(h *harness) {
	log := h.run(probe("fill", "/tmp"))
	if n := number(h.T, log, "filled"); n != 4<<20 || !strings.Contains(log, "file too large") {
		h.Errorf("with a limit of 4 MiB: %s", log)
	}
}

func testCPU(h *harness) {
	limited := func(s *sandbox.Spec) { s.Limits.CPUMillis = 200 }
	spec := h.spec(Wait())
	limited(&spec)
	h.start(spec)
	// A busy machine holds it back as well, so look at what the kernel was told.
	if quota := limit(h.T, spec, "cpu.cfs_quota_us", "cpu.max"); quota != "20000" {
		h.Errorf("the quota of a period is %s µs, want 20000", quota)
	}
	log := h.run(probe("burn"), limited)
	used := number(h.T, log, "burnt")
	// The limit counts in periods of a tenth of a second; all that it may use at
	// once is one more.
	if used == 0 || used > 400 {
		h.Errorf("%d ms of CPU in a second, with a limit of 200: %s", used, log)
	}
}

// limit reads a file of the container's control group: the first of the names, of
// v1 and v2, that is there.
func limit(t *testing.T, spec sandbox.Spec, names ...string) string {
	t.Helper()
	membership, err := os.ReadFile(filepath.Join(find(t, spec), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(membership)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, name := range names {
			content, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", parts[1], parts[2], name))
			if err == nil {
				return strings.Fields(string(content))[0]
			}
		}
	}
	t.Fatalf("no control group of %q has %v", membership, names)
	return ""
}

// testLateMount: what is mounted while the container runs is there, and nobody
// inside can change it, root neither.
func testLateMount(h *harness) {
	for who, uid := range map[string]int{"function": 65532, "root": 0} {
		source := h.TempDir()
		known := filepath.Join(source, "known")
		if err := errors.Join(os.WriteFile(known, []byte("known"), 0o666), os.Chmod(known, 0o666), os.Chmod(source, 0o777)); err != nil {
			h.Fatal(err)
		}
		spec := h.spec([]string{"/bin/sh", "-c", `until [ -e /var/task/known ]; do :; done; exec "$0" "$@"`, "/probe/probe", "attack", "/var/task"})
		spec.UID, spec.GID = uid, uid
		c := h.start(spec)
		if err := c.Mount(source, "/var/task"); err != nil {
			h.Fatal(err)
		}
		Await(h.T, c.Exited(), "the end of the attack")
		if log := Log(h.T, spec); strings.Contains(log, "BROKEN") || !strings.Contains(log, "done") {
			h.Errorf("attack by %s:\n%s", who, log)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), source) {
			h.Errorf("the host sees the mount; %v", err)
		}
		if err := c.Mount(source, "/var/task"); err == nil {
			h.Error("a container that has ended was mounted into")
		}
	}
}

// testSetLimits: limits that are set later are the kernel's.
func testSetLimits(h *harness) {
	spec := h.spec(Wait())
	c := h.start(spec)
	change := spec.Limits
	change.CPUMillis, change.MemoryBytes, change.PIDs = 300, 96<<20, 33
	if err := c.SetLimits(change); err != nil {
		h.Fatal(err)
	}
	for _, want := range []struct{ value, v1, v2 string }{
		{"30000", "cpu.cfs_quota_us", "cpu.max"},
		{strconv.Itoa(96 << 20), "memory.limit_in_bytes", "memory.max"},
		{"33", "pids.max", "pids.max"},
	} {
		if got := limit(h.T, spec, want.v1, want.v2); got != want.value {
			h.Errorf("%s is %s, want %s", want.v1, got, want.value)
		}
	}
	// A larger limit after a smaller one meets the bound of memory and swap together.
	change.MemoryBytes = 512 << 20
	if err := c.SetLimits(change); err != nil {
		h.Fatal(err)
	}
	if got := limit(h.T, spec, "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(512<<20) {
		h.Errorf("raised, the memory limit is %s", got)
	}
}

func testTmpfs(h *harness) {
	log := h.run(probe("fill", "/mnt/output"), func(s *sandbox.Spec) { s.Limits.FileBytes = 64 << 20 })
	if n := number(h.T, log, "filled"); n != 8<<20 || !strings.Contains(log, "no space left") {
		h.Errorf("a tmpfs of 8 MiB: %s", log)
	}
	if log := h.run(probe("run", "/mnt/output")); !strings.Contains(log, "permission denied") {
		h.Errorf("a tmpfs with noexec: %s", log)
	}
	if log := h.run(probe("run", "/tmp")); !strings.Contains(log, "run: <nil>") {
		h.Errorf("a tmpfs with exec: %s", log)
	}
}

// attack runs the probe's attack on a folder with a file, from a root user's
// place if asked, and checks that nothing came of it.
func (h *harness) attack(folder string, change func(*sandbox.Spec)) {
	h.Helper()
	log := h.run(probe("attack", folder), change)
	if strings.Contains(log, "BROKEN") || !strings.Contains(log, "done") {
		h.Errorf("attack on %s:\n%s", folder, log)
	}
}

func testReadOnly(h *harness) {
	source := h.TempDir()
	known := filepath.Join(source, "known")
	// Everybody may write there, as far as its mode goes.
	if err := errors.Join(os.WriteFile(known, []byte("known"), 0o666), os.Chmod(known, 0o666), os.Chmod(source, 0o777)); err != nil {
		h.Fatal(err)
	}
	before, err := os.Stat(known)
	if err != nil {
		h.Fatal(err)
	}
	mount := func(s *sandbox.Spec) {
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: source, Target: "/readonly", ReadOnly: true})
	}
	h.attack("/readonly", mount)
	h.attack("/readonly", func(s *sandbox.Spec) {
		mount(s)
		s.UID, s.GID = 0, 0 // nor a function that became root
	})
	after, err := os.Stat(known)
	if err != nil {
		h.Fatal(err)
	}
	content, err := os.ReadFile(known)
	if err != nil || string(content) != "known" || before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
		h.Errorf("the file changed: %q %v %v; %v", content, before, after, err)
	}
	if entries, err := os.ReadDir(source); err != nil || len(entries) != 1 {
		h.Errorf("the folder changed: %v %v", entries, err)
	}
	h.attack("/etc", func(s *sandbox.Spec) { s.UID, s.GID = 0, 0 })
	h.attack("/", func(s *sandbox.Spec) { s.UID, s.GID = 0, 0 })
}

func testWritableRoot(h *harness) {
	asRoot := func(writable bool) func(*sandbox.Spec) {
		return func(s *sandbox.Spec) { s.UID, s.GID, s.WritableRoot = 0, 0, writable }
	}
	if log := h.run(probe("fill", "/usr"), asRoot(true)); !strings.Contains(log, "file too large") {
		h.Errorf("a writable root: %s", log)
	}
	spec := h.spec(probe("fill", "/usr"))
	asRoot(false)(&spec)
	if _, log := Finish(h.T, h, spec); !strings.Contains(log, "read-only file system") {
		h.Errorf("a root that is read-only: %s", log)
	}
}

func testStatus(h *harness) {
	fields := map[string]string{}
	for line := range strings.Lines(h.run(probe("status"))) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	none := "0000000000000000"
	for name, want := range map[string]string{
		"Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1",
		"Seccomp":    "2", // a filter
		"Pid":        "1",
	} {
		if fields[name] != want {
			h.Errorf("%s is %q, want %q", name, fields[name], want)
		}
	}
	if groups := fields["Groups"]; groups != "" && groups != "65532" {
		h.Errorf("it has the groups %s", groups)
	}
}

func testPrivileges(h *harness) {
	for _, uid := range []int{65532, 0} {
		log := h.run(probe("privileges"), func(s *sandbox.Spec) { s.UID, s.GID = uid, uid })
		if uid == 0 { // who is root already may become it
			log = strings.Replace(log, "BROKEN setuid", "", 1)
		}
		if strings.Contains(log, "BROKEN") || !strings.Contains(log, "done") {
			h.Errorf("as user %d:\n%s", uid, log)
		}
		// Without a filter, this one would find that there is no such process.
		if !strings.Contains(log, "kernel keys operation not permitted") {
			h.Errorf("as user %d, seccomp lets add_key through:\n%s", uid, log)
		}
	}
}

func testEnvironment(h *harness) {
	odd := []string{
		"UNICODE=grüß Ωμέγα 🦋", "EMPTY=", "SPACES=  a  b  ", "QUOTES='\"`$HOME`\"'", "LINES=a\nb\r\n\tc", "EQUALS=a=b==c",
		"DOLLAR=${PATH} $(id) %s %n", "BACKSLASH=\\n\\0", "LONG=" + strings.Repeat("x", 100_000),
	}
	var inside []string
	log := h.run(probe("env"), func(s *sandbox.Spec) { s.Env = slices.Concat(odd, s.Env) })
	if err := json.Unmarshal([]byte(log), &inside); err != nil {
		h.Fatal(err)
	}
	for _, entry := range odd {
		if !slices.Contains(inside, entry) {
			h.Errorf("%.60q did not arrive", entry)
		}
	}
	for _, entry := range inside {
		name, _, _ := strings.Cut(entry, "=")
		switch known := slices.ContainsFunc(odd, func(o string) bool { return strings.HasPrefix(o, name+"=") }); {
		case known, name == "PATH", name == "PROBE", name == "HOSTNAME", name == "HOME":
		default:
			h.Errorf("%q was not given to it", entry)
		}
	}
}

func testNetworkNone(h *harness) {
	log := h.run(probe("net"))
	if strings.Count(log, "interface ") != 1 || !strings.Contains(log, "interface lo ") || strings.Contains(log, "route") {
		h.Errorf("without a network it has:\n%s", log)
	}
	log = h.run(probe("dial", "tcp://203.0.113.1:80", "udp://192.0.2.1:53", "tcp://[2001:db8::1]:80"))
	if strings.Count(log, "network is unreachable") != 3 {
		h.Errorf("without a network: %s", log)
	}
}

func testListenInside(h *harness) {
	spec := h.spec([]string{"/bin/bash", "-c", `
		until read -r -N 5 word 2>/dev/null </dev/tcp/127.0.0.1/9001; do :; done
		echo "bash: $word" >>/out/log`})
	c := h.start(spec)
	l, err := c.Listen(9001)
	if err != nil {
		h.Fatal(err)
	}
	if _, err := c.Listen(9001); err == nil {
		h.Error("the same port was opened twice")
	}
	outside, err := net.Dial("tcp4", l.Addr().String())
	if err == nil {
		// Somebody else's server may have the port here; ours would greet.
		got, _ := io.ReadAll(io.LimitReader(outside, 5))
		_ = outside.Close()
		if bytes.Equal(got, []byte("hello")) {
			h.Error("the container's listener is reached from the host's loopback")
		}
	}
	greet(h.T, l)
	Await(h.T, c.Exited(), "the end")
	if log := Log(h.T, spec); !strings.Contains(log, "bash: hello") {
		h.Errorf("inside: %q, %+v", log, c.Exit())
	}
}

func testOpenDir(h *harness) {
	const good = "good"
	spec := h.spec(probe("links", "/mnt/output"))
	c := h.start(spec)
	AwaitLog(h.T, spec, "ready")
	dir, err := c.OpenDir("/mnt/output")
	if err != nil {
		h.Fatal(err)
	}
	defer dir.Close()
	for _, name := range []string{good, "inside"} {
		if content, err := dir.ReadFile(name); err != nil || string(content) != good {
			h.Errorf("%s: %q, %v", name, content, err)
		}
	}
	for _, name := range []string{"absolute", "relative", "folder/passwd", "up/etc/passwd", "magic", "../../etc/passwd", "/etc/passwd"} {
		if content, err := dir.ReadFile(name); err == nil {
			h.Errorf("%s leads out of the folder: %.40q", name, content)
		}
	}
	if err := dir.WriteFile("from-outside", []byte("x"), 0o644); err != nil {
		h.Error(err)
	}
	if missing, err := c.OpenDir("/no/such/folder"); err == nil {
		h.Error("a folder that is not there was opened:", fmt.Sprint(missing.Name(), missing.Close()))
	}
	c.Kill()
	Await(h.T, c.Exited(), "the end")
	if content, err := dir.ReadFile(good); err != nil || string(content) != good {
		h.Errorf("after its end, what was open reads %q, %v", content, err)
	}
}
