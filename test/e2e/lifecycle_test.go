package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Points 2, 3 and 11: starting, stopping, and starting again.

// TestStopAnswersCallsInFlight stops a set-up while a call runs.
func TestStopAnswersCallsInFlight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, setup, sandbox string }{{"up", "up", onDocker}, {"roles", "roles", onOCI}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := private(t, c.setup, options{sandbox: c.sandbox})
			p.deploy(t, files{"dayfly.yaml": "name: probe\nruntime: python\nhandler: app.handler\nnetwork: egress\n", "app.py": testdata(t, "probe/app.py")})
			result := p.inFlight(t, "probe", sleepFor(3), "in flight")
			// All at once, as an operator stops a machine.
			for _, proc := range p.procs {
				if err := proc.signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if a := <-result; a.status != http.StatusOK {
				t.Errorf("the call in flight got %d %s", a.status, a.body)
			}
			for role, proc := range p.procs {
				if err := proc.awaitEnd(stopBound); err != nil {
					t.Fatal(err)
				}
				if proc.exitCode() != 0 {
					t.Errorf("%s ended with %s", role, proc.cmd.ProcessState)
				}
				if err := proc.sane(); err != nil {
					t.Error(err)
				}
				delete(p.procs, role)
			}
			if err := p.nothingLeft(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStopIsBounded: a call that takes longer than a stop may is told so.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	p := private(t, "up", options{flags: []string{"--drain", "1s"}})
	p.deploy(t, files{"dayfly.yaml": "name: probe\nruntime: python\nhandler: app.handler\ntimeout: 15m\n", "app.py": testdata(t, "probe/app.py")})
	result := p.inFlight(t, "probe", map[string]any{"do": "ignore"}, "before the end")
	if err := p.procs["up"].signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if a := <-result; a.status != http.StatusServiceUnavailable {
		t.Errorf("the call that did not end got %d %s", a.status, a.body)
	}
	if err := p.procs["up"].awaitEnd(patience); err != nil {
		t.Error(err)
	}
	delete(p.procs, "up")
	if err := p.nothingLeft(); err != nil {
		t.Error(err)
	}
}

// TestKilledAndStartedAgain: `kill -9`, then a start with the same data.
func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	for _, sandbox := range []string{onDocker, onOCI} {
		t.Run(sandbox, func(t *testing.T) {
			t.Parallel()
			testKilledAndStartedAgain(t, sandbox)
		})
	}
}

func testKilledAndStartedAgain(t *testing.T, sandbox string) {
	none := []string{"--stems", "0"} // those of the new run would look like what is left of the old
	p := private(t, "up", options{sandbox: sandbox, flags: none})
	app := testdata(t, "probe/app.py")
	p.deploy(t, files{"dayfly.yaml": "name: kept\nruntime: python\nhandler: app.handler\noutput: {store: true}\nnetwork: egress\n", "app.py": app})
	p.deploy(t, files{"dayfly.yaml": "name: kept\nruntime: python\nhandler: app.handler\noutput: {store: true}\nnetwork: egress\nenv: {TEXT: second}\n", "app.py": app})
	p.deploy(t, files{"dayfly.yaml": "name: kept\nruntime: python\nhandler: app.handler\n", "app.py": app}, "--namespace", "team-a")
	stored := p.invoke(t, "kept", map[string]any{"do": "leave", "files": map[string]string{"a/b": "c"}}).want(t, 200).invocation()
	p.record(t, stored)
	node := p.node
	bystanders(t, sandbox)
	held := strings.Join(p.instances(t), " ")

	if err := p.procs["up"].kill(); err != nil {
		t.Fatal(err)
	}
	delete(p.procs, "up")
	if left := strings.Join(p.instances(t), " "); left != held || held == "" {
		t.Fatalf("the killed process left the containers [%s] of [%s]: this test tests nothing", left, held)
	}
	if left := tracesOf("invoker/"+node, p.dir); len(left) == 0 {
		t.Fatal("the killed process left no network: this test tests too little")
	}
	again, err := world.startPlatform("up", p.dir, options{sandbox: sandbox, node: node, flags: none})
	if err != nil {
		t.Fatal(err)
	}
	p.procs, p.url, p.all = again.procs, again.url, append(p.all, again.all...) // stopped with p
	if left := p.instances(t); len(left) != 0 {
		t.Errorf("the containers %s are left of the run before", left)
	}
	if left := processesWith("DAYFLY_NODE=" + node); len(left) != 0 {
		t.Errorf("processes are left of the run before: %s", left)
	}
	for _, trace := range tracesOf("invoker/"+node, p.dir) {
		if strings.HasPrefix(trace, "link") || strings.HasPrefix(trace, "firewall") {
			t.Errorf("left of the run before: %s", trace)
		}
	}
	if got := p.names(t, "default"); strings.Join(got, " ") != "kept" {
		t.Errorf("functions of default: %v", got)
	}
	if got := p.names(t, "team-a"); strings.Join(got, " ") != "kept" {
		t.Errorf("functions of team-a: %v", got)
	}
	p.invoke(t, "kept", map[string]string{"do": "version"}).wantJSON(t, `{"version": "2", "text": "second"}`)
	p.invoke(t, "kept:1", map[string]string{"do": "version"}).wantJSON(t, `{"version": "1", "text": null}`)
	if got := p.do(t, http.MethodGet, "/v1/invocations/"+stored+"/output/a/b", nil).want(t, 200); string(got.body) != "c" {
		t.Errorf("the stored file holds %q", got.body)
	}
}

// bystanders starts what looks like a node's and is none's; it must outlive the test.
func bystanders(t *testing.T, sandbox string) {
	t.Helper()
	other := "invoker/" + world.mark + "-somebody-else"
	if sandbox == onOCI {
		group := otherGroup(t, shortOf(other))
		t.Cleanup(func() { // before it is removed
			if pids, err := os.ReadFile(filepath.Join(group, "cgroup.procs")); err != nil || len(pids) == 0 {
				t.Errorf("another node's process was touched: %q, %v", pids, err)
			}
		})
		return
	}
	ids := []string{world.docker.foreign(t, nil), world.docker.foreign(t, map[string]string{labelOwner: other})}
	t.Cleanup(func() { // before those two are removed
		if !world.docker.running(t, ids[0]) || !world.docker.running(t, ids[1]) {
			t.Error("a foreign container was touched")
		}
	})
}

// otherGroup makes a cgroup as another node's oci sandbox does, with a process in it,
// and removes it after the test.
func otherGroup(t *testing.T, short string) (path string) {
	t.Helper()
	tops, err := filepath.Glob("/sys/fs/cgroup/pids/dayfly") // cgroup v1
	if err == nil && len(tops) == 0 {
		tops, err = filepath.Glob("/sys/fs/cgroup/dayfly")
	}
	if err != nil || len(tops) == 0 {
		t.Fatalf("no cgroup of the oci sandbox: a platform must have started before; %v", err)
	}
	path = filepath.Join(tops[0], short, "bystander-1")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		eventually(t, patience, func() error { return errors.Join(os.Remove(path), os.Remove(filepath.Dir(path))) })
	})
	if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNodeKeepsItsName: without --node a name is made once and kept.
func TestNodeKeepsItsName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var names []string
	for range 2 {
		// The set-up's own flag is overridden by a later empty one.
		p, err := world.startPlatform("up", dir, options{flags: []string{"--node", ""}})
		if err != nil {
			t.Fatal(err)
		}
		p.showLogs(t)
		kept, err := os.ReadFile(filepath.Join(dir, "data", "node-id"))
		if err != nil {
			t.Error(err)
		}
		names = append(names, strings.TrimSpace(string(kept)))
		p.node = names[len(names)-1]
		world.sawOwner("invoker/" + p.node)
		if out := p.cli(t, "nodes", "-w").wantExit(t, 0, "docker"); !strings.Contains(out.stdout, p.node) {
			t.Errorf("no node %s in %s", p.node, out.stdout)
		}
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}
	if names[0] == "" || names[0] != names[1] {
		t.Errorf("the node was called %q", names)
	}
}

// TestRefusedStarts has a row for each start that cannot work.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	p, err := world.up()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly := filepath.Join(t.TempDir(), "read-only")
	if err := os.Mkdir(readOnly, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", readOnly, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(readOnly, 0); err != nil {
			t.Error(err)
		}
	})
	nobody, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		env  []string
		code int
		says []string
	}{
		{"data in use", []string{"up", "--data", filepath.Join(p.dir, "data")}, nil, 2, []string{"another dayfly uses the data folder", "--data"}},
		{"port in use", []string{"up", "--listen", taken.Addr().String()}, nil, 2, []string{taken.Addr().String(), "address already in use", "--listen"}},
		{"data below a file", []string{"up", "--data", filepath.Join(file, "data")}, nil, 2, []string{file, "--data"}},
		{"data read-only", []string{"up", "--data", readOnly}, nil, 2, []string{readOnly, "--data"}},
		{"no docker", []string{"up", "--sandbox", "docker"}, []string{"DOCKER_HOST=unix:///nonexistent"}, 1, []string{"/nonexistent", "DOCKER_HOST", "start"}},
		{"no docker, invoker", []string{"invoker", "--sandbox", "docker", "--nats", "NATS", "--s3-endpoint", "S3"}, []string{"DOCKER_HOST=unix:///nonexistent"}, 1, []string{"/nonexistent", "DOCKER_HOST"}},
		{"bad docker", []string{"up", "--sandbox", "docker"}, []string{"DOCKER_HOST=nonsense"}, -1, []string{"DOCKER_HOST"}},
		{"no NATS named", []string{"scheduler"}, nil, 2, []string{"--nats", "nats://"}},
		{"no S3 named", []string{"gateway", "--nats", "nats://" + nobody}, nil, 2, []string{"--s3-endpoint", "http://"}},
		{"no NATS there", []string{"scheduler", "--nats", "nats://" + nobody}, nil, -1, []string{"--nats"}},
		{"bad node", []string{"up", "--node", "Not A Name"}, nil, 2, []string{"Not A Name", "--node"}},
		{"bad sandbox", []string{"up", "--sandbox", "jail"}, nil, 2, []string{"jail", "docker or oci"}},
		{"no OCI runtime", []string{"up", "--sandbox", "oci", "--oci-runtime", "/no/such/crun"}, nil, 1, []string{"/no/such/crun", "install crun"}},
		{"bad level", []string{"up", "--log-level", "loud"}, nil, 2, []string{"loud"}},
		{"bad setting", []string{"up"}, []string{"DAYFLY_IDLE=soon"}, 2, []string{"DAYFLY_IDLE", "soon"}},
		{"bad memory", []string{"up", "--memory", "-1"}, nil, 2, []string{"--memory"}},
		{"unknown flag", []string{"up", "--dta", "x"}, nil, 2, []string{"--dta"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := c.args
			for i, arg := range args { // engines that are there
				roles, err := world.roles()
				if err != nil {
					t.Fatal(err)
				}
				args[i] = strings.NewReplacer("NATS", roles.nats.at.URL, "S3", roles.s3.at.URL).Replace(arg)
				if arg == "S3" {
					args = append(args, "--s3-access-key", roles.s3.at.AccessKey, "--s3-secret-key", roles.s3.at.SecretKey)
				}
			}
			if line := strings.Join(args, " "); !strings.Contains(line, "--listen") {
				args = append(args, "--listen", "127.0.0.1:0")
			}
			dir := t.TempDir()
			if line := strings.Join(args, " "); !strings.Contains(line, "--data") && (args[0] == "up" || args[0] == "invoker") {
				args = append(args, "--data", filepath.Join(dir, "data"))
			}
			out, err := runCommand(c.env, "", args...)
			if err != nil {
				t.Fatal(err)
			}
			if c.code > 0 {
				out.wantExit(t, c.code, c.says...)
			} else if out.code == 0 {
				t.Error("it ended with 0")
			}
			for _, text := range c.says {
				if !strings.Contains(out.stderr, text) {
					t.Errorf("it does not say %q: %s", text, out.stderr)
				}
			}
			if n := strings.Count(out.stderr, "\nerror: ") + strings.Count("\n"+out.stderr, "\nerror: "); n == 0 || strings.Contains(out.stderr, "goroutine ") {
				t.Errorf("no clear error: %s", out.stderr)
			}
		})
	}
	// The one whose folder was asked for is well.
	p.invoke(t, p.probe(t), map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
}

// TestReadiness: a gateway alone is alive but not ready, and says why.
func TestReadiness(t *testing.T) {
	t.Parallel()
	p := &platform{setup: "roles", dir: t.TempDir(), node: world.newName("ready"), procs: map[string]*process{}, urls: map[string]string{}}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	p.showLogs(t)
	if err := p.startEngines(); err != nil {
		t.Fatal(err)
	}
	wantReady := func(when string, want bool) {
		t.Helper()
		eventually(t, patience, func() error {
			if err := readiness(p.url); (err == nil) != want {
				return fmt.Errorf("%s: ready is %t (%v)", when, err == nil, err)
			}
			return nil
		})
	}
	for _, step := range []struct {
		role string
		want bool
	}{{"gateway", false}, {"invoker", false}, {"scheduler", true}} {
		if err := p.startRole(step.role, options{}); err != nil {
			t.Fatal(err)
		}
		p.url = p.urls["gateway"]
		wantReady("with "+step.role, step.want)
		p.do(t, http.MethodGet, "/healthz", nil).want(t, http.StatusOK)
	}
	for role, url := range p.urls {
		if err := poll(patience, func() error { return readiness(url) }); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
	if err := p.procs["invoker"].terminate(stopBound); err != nil {
		t.Error(err)
	}
	delete(p.procs, "invoker")
	wantReady("after the invoker", false)
	a := p.do(t, http.MethodGet, "/readyz", nil)
	a.wantProblem(t, http.StatusServiceUnavailable, "unavailable", "no node")
}
