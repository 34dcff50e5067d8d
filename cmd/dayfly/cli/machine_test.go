package cli

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// healthy is a machine with nothing wrong.
func healthy() machine {
	return machine{
		root: fstest.MapFS{
			"sys/fs/cgroup/cgroup.controllers": {Data: []byte("cpuset cpu io memory pids\n")},
			"proc/meminfo":                     {Data: []byte("MemTotal: 9 kB\nMemAvailable:   4194304 kB\nBuffers: 1 kB\n")},
		},
		release: "6.1.0-18-amd64", files: 1 << 20, data: "dayfly-data", free: 50 << 30,
		look:   func(program string) (string, error) { return "/usr/bin/" + program, nil },
		engine: func(context.Context) error { return nil },
	}
}

func nothing(string) (string, error) { return "", exec.ErrNotFound }

// TestExamineMachine: of a healthy machine nothing is found, and of others just what is
// wrong, with what to do about it.
func TestExamineMachine(t *testing.T) {
	noEngine := func(context.Context) error { return errors.New("refused") }
	for name, test := range map[string]struct {
		spoil   func(*machine)
		want    string // name and verdict of what is found
		text    string
		without bool // what to do
	}{
		"healthy":             {spoil: func(*machine) {}},
		"old kernel":          {func(m *machine) { m.release = "5.11.9" }, "system fail", "5.11.9", false},
		"very old kernel":     {func(m *machine) { m.release = "4.19.0-26-amd64" }, "system fail", "4.19", false},
		"oldest that does":    {spoil: func(m *machine) { m.release = "5.12" }},
		"strange kernel":      {spoil: func(m *machine) { m.release = "x" }},
		"not root":            {func(m *machine) { m.user = 1000 }, "system warn", "user 1000", false},
		"no engine":           {spoil: func(m *machine) { m.engine = noEngine }},
		"nothing makes them":  {func(m *machine) { m.engine, m.look = noEngine, nothing }, "containers fail, go warn, git warn", "neither crun nor runc", false},
		"no programs":         {func(m *machine) { m.look = nothing }, "go warn, git warn", "not found", false},
		"cgroups v1":          {spoil: func(m *machine) { m.root = v1(m, "cpu", "memory", "pids") }},
		"cgroups v1, in part": {func(m *machine) { m.root = v1(m, "cpu", "pids") }, "control groups fail", "version 1 without memory", false},
		"cgroups v2, in part": {func(m *machine) {
			m.root.(fstest.MapFS)["sys/fs/cgroup/cgroup.controllers"] = &fstest.MapFile{Data: []byte("cpu\n")}
		}, "control groups fail", "version 2 without memory, pids", false},
		"few files":    {func(m *machine) { m.files = 1024 }, "open files warn", "up to 1024", false},
		"no meminfo":   {func(m *machine) { delete(m.root.(fstest.MapFS), "proc/meminfo") }, "memory warn", "not known", true},
		"little disk":  {func(m *machine) { m.free = 2 << 30 }, "disk warn", "2 GiB free for dayfly-data", false},
		"no disk":      {func(m *machine) { m.free = 1 << 20 }, "disk fail", "1 MiB free", false},
		"lonely clock": {func(m *machine) { m.unsynced = true }, "clock sync warn", "nobody", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := healthy()
			test.spoil(&m)
			wantFindings(t, examineMachine(t.Context(), m), test.want, test.text, test.without)
		})
	}
}

func wantFindings(t *testing.T, all []finding, want, text string, without bool) {
	t.Helper()
	var found []string
	texts := ""
	for _, f := range all {
		if f.Verdict == verdictOK {
			continue
		}
		found = append(found, f.Name+" "+f.Verdict)
		texts += f.Text + "\n"
		if (f.Mend == "") != without {
			t.Errorf("%s: what to do is %q", f.Name, f.Mend)
		}
	}
	if got := strings.Join(found, ", "); got != want || !strings.Contains(texts, text) {
		t.Errorf("found %q, %q, want %q, %q", got, texts, want, text)
	}
}

func v1(m *machine, names ...string) fstest.MapFS {
	root := fstest.MapFS{"proc/meminfo": m.root.(fstest.MapFS)["proc/meminfo"]}
	for _, name := range names {
		root["sys/fs/cgroup/"+name+"/tasks"] = &fstest.MapFile{}
	}
	return root
}

func TestExamineNode(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		spoil      func(*client.Node)
		want, text string
		without    bool
	}{
		"healthy":      {spoil: func(*client.Node) {}},
		"silent":       {func(n *client.Node) { n.LastSeen = now.Add(-time.Minute) }, "node n1 fail", "1m ago", false},
		"gone":         {func(n *client.Node) { n.Gone = true }, "node n1 warn", "is not heard of", false},
		"draining":     {func(n *client.Node) { n.Draining = true }, "node n1 warn", "takes nothing new", true},
		"older":        {func(n *client.Node) { n.Build = "v1" }, "node n1 warn", "runs v1, the gateway v2", false},
		"incompatible": {func(n *client.Node) { n.Incompatible, n.Protocol = true, 9 }, "node n1 fail", "protocol 9, which the server does not speak", false},
		"clock ahead":  {func(n *client.Node) { n.At = now.Add(time.Minute) }, "node n1 warn", "1m0s ahead of the server's", false},
		"clock back":   {func(n *client.Node) { n.At = now.Add(-time.Minute) }, "node n1 warn", "1m0s behind the server's", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := client.Node{LastSeen: now, NodeState: wire.NodeState{Node: "n1", Build: "v2", At: now}}
			test.spoil(&n)
			wantFindings(t, examineNode(n, client.Health{Build: "v2", Now: now}), test.want, test.text, test.without)
		})
	}
}

func TestExamineRoles(t *testing.T) {
	for name, test := range map[string]struct {
		spoil      func(gateway, scheduler *client.Role)
		want, text string
		without    bool
	}{
		"healthy":          {spoil: func(*client.Role, *client.Role) {}},
		"the next release": {func(g, _ *client.Role) { g.Build, g.Protocol = "v3", 8 }, "processes warn", "they run v2 (scheduler on h1) and v3 (gateway on h1)", false},
		"too new":          {func(g, _ *client.Role) { g.Protocol = 9 }, "protocol fail", "gateway on h1 runs v2 with protocol 9, the server speaks 7", false},
		"no leader":        {func(_, s *client.Role) { s.Leads = false }, "leader fail", "no scheduler leads", false},
		"two leaders":      {func(g, _ *client.Role) { g.Leads = true }, "leader warn", "gateway on h1 and scheduler on h1 say that they lead", false},
		"clock":            {func(g, _ *client.Role) { g.DriftMillis = 1001 }, "clock warn", "the clock of gateway on h1 is 1s ahead of the server's", false},
		"clock in bounds":  {spoil: func(g, _ *client.Role) { g.DriftMillis = -1000 }},
	} {
		t.Run(name, func(t *testing.T) {
			gateway := client.Role{RoleState: wire.RoleState{Role: "gateway", Host: "h1", Build: "v2", Protocol: 7}}
			scheduler := client.Role{RoleState: wire.RoleState{Role: "scheduler", Host: "h1", Build: "v2", Protocol: 7, Leads: true}}
			test.spoil(&gateway, &scheduler)
			wantFindings(t, examineRoles([]client.Role{gateway, scheduler}, 7), test.want, test.text, test.without)
		})
	}
}

func TestOnThisMachine(t *testing.T) {
	for address, want := range map[string]bool{
		"http://127.0.0.1:8080": true, "http://localhost:8080": true, "http://[::1]:8080": true,
		"http://10.0.0.1:8080": false, "https://dayfly.example": false, "://": false,
	} {
		if got := onThisMachine(address); got != want {
			t.Errorf("%s: %t", address, got)
		}
	}
}
