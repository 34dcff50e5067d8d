package oci

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); -update writes it anew:\n%s", path, diff)
	}
}

func fullSpec() sandbox.Spec {
	return sandbox.Spec{
		Instance: "i-1", Root: sandbox.Root{Name: "base", Digest: wire.Digest(strings.Repeat("ab", 32))},
		Command: []string{"/bin/sh", "-c", "exec true"}, Env: []string{"A=b"}, WorkDir: "/var/task",
		Mounts: []sandbox.Mount{{Source: "/tmp", Target: "/var/task/deep", ReadOnly: true}, {Source: "/tmp", Target: "/run/dayfly/"}},
		Tmpfs: []sandbox.Tmpfs{
			{Target: "/tmp", Bytes: 1 << 20, Mode: 0o777 | os.ModeSticky, Exec: true}, {Target: "/var/task", Bytes: 2 << 20, Mode: 0o755},
		},
		Limits:  sandbox.Limits{MemoryBytes: 128 << 20, CPUMillis: 1500, CPUShareMillis: 250, PIDs: 64, OpenFiles: 256, FileBytes: 4 << 20},
		Network: sandbox.NetworkEgress, UID: 65532, GID: 65532,
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	filter := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}}}
	around := surroundings{root: "/roots/base", netns: "/proc/1/fd/7", cgroup: "/dayfly/00112233/i-1", resolvConf: "/resolv", limitsSwap: true, seccomp: filter}
	compiled := around
	compiled.seccompBPF, compiled.limitsSwap, compiled.resolvConf = "AAAA", false, ""
	writable := fullSpec()
	writable.WritableRoot, writable.WorkDir, writable.Limits.CPUMillis, writable.Limits.CPUShareMillis = true, "", 1, 0
	for name, config := range map[string]*specs.Spec{
		"config.golden.json":   translate(fullSpec(), around),
		"compiled.golden.json": translate(writable, compiled),
	} {
		content, err := json.MarshalIndent(config, "", "\t")
		must(t, err)
		golden(t, name, append(content, '\n'))
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := check(fullSpec()); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*sandbox.Spec){
		"no absolute path":   func(s *sandbox.Spec) { s.Tmpfs[0].Target = "tmp" },
		"absolute paths":     func(s *sandbox.Spec) { s.Mounts[0].Target = "task" },
		"no such file":       func(s *sandbox.Spec) { s.Mounts[0].Source = "/no/such/folder" },
		"cannot name":        func(s *sandbox.Spec) { s.Instance = "../x" },
		"no command":         func(s *sandbox.Spec) { s.Command = nil },
		"no valid digest":    func(s *sandbox.Spec) { s.Root.Digest = "../.." },
		"no valid name":      func(s *sandbox.Spec) { s.Root.Name = "../x" },
		"memory limit":       func(s *sandbox.Spec) { s.Limits.MemoryBytes = 0 },
		"size of tmpfs /tmp": func(s *sandbox.Spec) { s.Tmpfs[0].Bytes = 0 },
	} {
		spec := fullSpec()
		change(&spec)
		if err := check(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestDefaultSeccomp: what needs a capability is refused, what all need is not.
func TestDefaultSeccomp(t *testing.T) {
	t.Parallel()
	profile, err := defaultSeccomp()
	must(t, err)
	if profile.DefaultAction != specs.ActErrno {
		t.Errorf("by default it does %s", profile.DefaultAction)
	}
	allowed := map[string]bool{}
	for _, s := range profile.Syscalls {
		for _, name := range s.Names {
			allowed[name] = allowed[name] || s.Action == specs.ActAllow && len(s.Args) == 0
		}
	}
	for name, want := range map[string]bool{
		"read": true, "clone3": false, "mount": false, "bpf": false, "ptrace": true, "add_key": false, "unshare": false, "setns": false, "reboot": false,
	} {
		if allowed[name] != want {
			t.Errorf("%s: allowed is %t", name, allowed[name])
		}
	}
}

func TestLastMessage(t *testing.T) {
	t.Parallel()
	for log, want := range map[string]string{
		"": "", "plain\n": "plain",
		`{"msg":"first"}` + "\n" + `{"level":"error","msg":"second"}` + "\n": "second",
	} {
		if got := lastMessage([]byte(log)); got != want {
			t.Errorf("%q: %q", log, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]process{
		"12 (crun) Z 3 4 5 0 -1":    {pid: 12, parent: 3, session: 5, name: "crun", state: 'Z'},
		"12 (a) b) (c) S 7 7 7 0 -": {pid: 12, parent: 7, session: 7, name: "a) b) (c", state: 'S'},
	} {
		if got, err := parseStat([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "12 (x", ")(", "12 (x) Z 1", "x (y) Z 1 2 3", "1 (y) Z a 2 3", "1 (y) Z 2 3 a"} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
