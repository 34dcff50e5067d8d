package e2e_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// startBound covers preparing the runtimes, which the first start on a machine
	// does.
	startBound = 15 * time.Minute
	stopBound  = 45 * time.Second
)

// What makes the containers of a platform.
const (
	onDocker = "docker"
	onOCI    = "oci"
)

// options change a platform that a test starts for itself.
type options struct {
	sandbox string   // empty for onDocker
	flags   []string // of `up`, or of the invoker
	events  []string // flags of the events worker
	env     []string // of every process
	node    string   // empty for a new name
}

// platform is one running Dayfly.
type platform struct {
	setup   string // up or roles
	sandbox string
	dir     string
	node    string
	url     string
	// procs are the processes by role; `up` is one.
	procs map[string]*process
	urls  map[string]string // of each process
	nats  *engine           // nil in `up`
	s3    *engine
	all   []*process // every process there ever was, for their logs

	mu       sync.Mutex
	deployed map[string]func() (deployment, error) // guarded by mu: shared functions
}

// sharedSetup is one that tests share.
type sharedSetup struct {
	name string
	get  func() (*platform, error)
}

// onBoth runs a test against the two shared set-ups with Docker.
func onBoth(t *testing.T, test func(t *testing.T, p *platform)) {
	t.Helper()
	on(t, []sharedSetup{{"up", world.up}, {"roles", world.roles}}, test)
}

// onEach runs a test against each set-up and each sandbox once: `roles` with Docker and
// `up` without. It is for what depends on the sandbox.
func onEach(t *testing.T, test func(t *testing.T, p *platform)) {
	t.Helper()
	on(t, []sharedSetup{{"roles", world.roles}, {"oci", world.oci}}, test)
}

func on(t *testing.T, setups []sharedSetup, test func(t *testing.T, p *platform)) {
	t.Helper()
	for _, setup := range setups {
		t.Run(setup.name, func(t *testing.T) {
			p, err := setup.get()
			if err != nil {
				t.Fatal(err)
			}
			p.showLogs(t)
			test(t, p)
		})
	}
}

// showLogs prints the platform's log when the test fails.
func (p *platform) showLogs(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.logTail())
		}
	})
}

// private starts a platform for one test, which stops with the test.
func private(t *testing.T, setup string, o options) *platform {
	t.Helper()
	if o.sandbox == onOCI {
		if _, err := world.oci(); err != nil { // which unpacks the root file systems
			t.Fatal(err)
		}
	}
	p, err := world.startPlatform(setup, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	p.showLogs(t)
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// startPlatform starts a set-up with its data in dir and waits until it is ready.
// On error nothing is left.
func (s *suite) startPlatform(setup, dir string, o options) (p *platform, err error) {
	p = &platform{
		setup: setup, sandbox: o.sandbox, dir: dir, node: o.node,
		procs: map[string]*process{}, urls: map[string]string{}, deployed: map[string]func() (deployment, error){},
	}
	if p.node == "" {
		p.node = s.newName(setup)
	}
	if p.sandbox == "" {
		p.sandbox = onDocker
	}
	s.sawOwner("invoker/"+p.node, "builder/"+filepath.Join(dir, "data"), "builder/"+filepath.Join(dir, "builder"),
		"builder/"+filepath.Join(dir, secondBuilder))
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s did not start: %w\n%s", setup, errors.Join(err, p.stop()), p.logTail())
		}
	}()
	if setup == "up" {
		flags := append([]string{"--data", filepath.Join(dir, "data"), "--node", p.node, "--sandbox", p.sandbox}, o.flags...)
		if err := p.run("up", o.env, flags...); err != nil {
			return p, err
		}
		p.url = p.urls["up"]
		return p, p.awaitReady()
	}
	if err := p.startEngines(); err != nil {
		return p, err
	}
	for _, role := range []string{"scheduler", "invoker", "builder", "events", "gateway"} {
		if err := p.startRole(role, o); err != nil {
			return p, err
		}
	}
	p.url = p.urls["gateway"]
	return p, p.awaitReady()
}

// secretsKey is the file of the key that the roles share.
func (p *platform) secretsKey() string { return filepath.Join(p.dir, "secrets.key") }

// startEngines starts NATS and S3 of the set-up `roles`, and makes the key for its secrets.
func (p *platform) startEngines() (err error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	if err := os.WriteFile(p.secretsKey(), []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		return err
	}
	if p.nats, err = world.startEngine("nats", p.dir, ""); err != nil {
		return err
	}
	p.s3, err = world.startEngine("s3", p.dir, "")
	return err
}

// secondBuilder is a role that no platform has unless a test starts it.
const secondBuilder = "builder-2"

// startRole starts one role of the set-up `roles`.
func (p *platform) startRole(role string, o options) error {
	flags := []string{"--nats", p.nats.at.URL}
	env := append([]string{"DAYFLY_S3_ENDPOINT=" + p.s3.at.URL, "DAYFLY_S3_ACCESS_KEY=" + p.s3.at.AccessKey, "DAYFLY_S3_SECRET_KEY=" + p.s3.at.SecretKey}, o.env...)
	switch role {
	case "gateway":
		flags = append(flags, "--secrets-key", p.secretsKey())
	case "invoker":
		flags = append(append(flags, "--secrets-key", p.secretsKey(), "--data", filepath.Join(p.dir, role), "--node", p.node, "--sandbox", p.sandbox), o.flags...)
	case "events":
		flags = append(flags, o.events...)
	case "builder", secondBuilder:
		flags = append(flags, "--data", filepath.Join(p.dir, role), "--sandbox", p.sandbox)
	}
	return p.run(role, env, flags...)
}

// run starts a process of the binary and waits until it is up.
func (p *platform) run(role string, env []string, flags ...string) error {
	if err := shareCaches(flags); err != nil {
		return err
	}
	command, _, _ := strings.Cut(role, "-") // of the second one, too
	args := append([]string{command, "--listen", "127.0.0.1:0", "--log-level", "debug", "--log-format", "json"}, flags...)
	proc, err := world.startDayfly(env, args...)
	if err != nil {
		return err
	}
	p.procs[role], p.all = proc, append(p.all, proc)
	return poll(startBound, func() error {
		if record := proc.log.find("dayfly is up"); record != nil {
			url, _ := record["url"].(string)
			p.urls[role] = url
			world.sawAddress(strings.TrimPrefix(url, "http://"))
			return nil
		}
		if proc.ended() {
			return fmt.Errorf("%s ended with %s", role, proc.cmd.ProcessState)
		}
		return fmt.Errorf("%s is still starting", role)
	})
}

// startDayfly starts the binary.
func (s *suite) startDayfly(env []string, args ...string) (*process, error) {
	cmd := exec.Command(s.binary, args...)
	cmd.Env = append(append(os.Environ(), s.modules.setting()), env...)
	return start("dayfly "+args[0], cmd)
}

// shareCaches makes what a builder has compiled of the standard library that of all
// builders of this run, and so the root file systems of the oci sandbox.
func shareCaches(flags []string) error {
	for i, flag := range flags {
		if flag != "--data" {
			continue
		}
		for folder, shared := range map[string]string{"builder/gostd": world.goStd, "oci/roots": world.roots} {
			path := filepath.Join(flags[i+1], folder)
			if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
				return err
			}
			if err := os.Symlink(shared, path); err != nil && !errors.Is(err, os.ErrExist) { // started again
				return err
			}
		}
	}
	return nil
}

// readiness asks a process's /readyz.
func readiness(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/readyz says %s", url, response.Status)
	}
	return nil
}

func (p *platform) awaitReady() error {
	return poll(patience, func() error { return readiness(p.url) })
}

// stop stops what still runs and fails when a process does not end well, or leaves
// anything.
func (p *platform) stop() error {
	var errs []error
	for _, role := range []string{"up", "gateway", "events", "invoker", "builder", secondBuilder, "scheduler"} {
		if proc := p.procs[role]; proc != nil {
			errs = append(errs, proc.terminate(stopBound))
			delete(p.procs, role)
		}
	}
	for _, e := range []*engine{p.s3, p.nats} {
		if e != nil {
			errs = append(errs, e.end())
		}
	}
	p.s3, p.nats = nil, nil
	return errors.Join(append(errs, p.nothingLeft())...)
}

// nothingLeft fails when something of this platform is still there.
func (p *platform) nothingLeft() error {
	world.excuse(p.all...)
	return poll(patience, func() error {
		if left := world.leftoversOf(p.node, p.dir); len(left) > 0 {
			return fmt.Errorf("%s left behind:\n  %s", p.setup, strings.Join(left, "\n  "))
		}
		return nil
	})
}

func (p *platform) logTail() string {
	var b strings.Builder
	for _, proc := range p.all {
		fmt.Fprintf(&b, "--- the end of the log of %s (%s):\n%s\n", proc.name, p.setup, proc.log.tail())
	}
	return b.String()
}
