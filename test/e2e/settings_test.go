package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// settled is more than a change of settings takes on a busy machine; it is meant to take
// less than a second.
const settled = time.Minute

func settingsFunction(t *testing.T, name, more string) files {
	t.Helper()
	return files{
		"dayfly.yaml": "name: " + name + "\nruntime: python\nhandler: app.handler\nnetwork: none\n" + more,
		"app.py":      testdata(t, "settings/app.py"),
	}
}

func TestConfigReachesRunningInstances(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		const name = "configured"
		type told struct {
			Config, Init functions.Config
			Instance     string
		}
		// Before there is a function, for its start.
		p.cli(t, "config", "set", name, "SIZE=128", "MODE=slow").wantExit(t, 0, "SIZE", "128")
		p.deploy(t, settingsFunction(t, name, ""))
		ask := func() told { return decode[told](t, p.invoke(t, name, map[string]string{"do": "config"})) }
		first := ask()
		if first.Init.Values["SIZE"] != "128" || first.Config.Values["MODE"] != "slow" {
			t.Errorf("at the start it is %+v", first)
		}
		// A question that waits is answered once there is a change.
		waiting := make(chan answer, 1)
		go func() {
			a, err := p.call(name, map[string]string{"do": "config", "query": "?after=" + first.Config.Revision})
			if err != nil {
				t.Error(err)
			}
			waiting <- a
		}()
		begun := time.Now()
		p.cli(t, "config", "set", name, "SIZE=256").wantExit(t, 0)
		heard := decode[told](t, <-waiting)
		if heard.Config.Values["SIZE"] != "256" || heard.Config.Values["MODE"] != "slow" || heard.Config.Revision == first.Config.Revision {
			t.Errorf("after the change it is %+v", heard)
		}
		t.Logf("from the command to the instance: %s", time.Since(begun))
		p.cli(t, "config", "unset", name, "MODE").wantExit(t, 0)
		eventually(t, settled, func() error {
			if got := ask(); len(got.Config.Values) != 1 || got.Instance != first.Instance {
				return fmt.Errorf("it is %+v, at first it was %+v", got, first)
			}
			return nil
		})
		p.cli(t, "config", "get", name, "SIZE").wantExit(t, 0, "256")
		p.cli(t, "delete", name, "--yes").wantExit(t, 0)
		p.cli(t, "config", "list", name).wantExit(t, 0, "not configured")
	})
}

// seenSecret is what a function finds of a secret.
type seenSecret struct {
	Env, File, Mode, Instance string
	Own, Writable             bool
}

// secretOf asks a function about a secret; the value itself is in no event.
func (p *platform) secretOf(t testing.TB, ref, name, value string) seenSecret {
	t.Helper()
	return decode[seenSecret](t, p.invoke(t, ref, map[string]any{"do": "secret", "name": name, "parts": strings.Split(value, "-")}))
}

func (p *platform) setSecret(t testing.TB, ref, name, value string) {
	t.Helper()
	out, err := runCommand([]string{"DAYFLY_URL=" + p.url}, value+"\n", "secrets", "set", ref, name)
	if err != nil {
		t.Fatal(err)
	}
	out.wantExit(t, 0, "set "+name)
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		const name = "secretive"
		f := settingsFunction(t, name, "secrets:\n  - TOKEN\n  - {name: KEY, as: file}\n  - {name: PASSWORD, as: env}\n")
		dir := t.TempDir()
		if err := f.folder(dir); err != nil {
			t.Fatal(err)
		}
		p.cli(t, "deploy", dir).wantExit(t, 1, "not set: TOKEN, KEY, PASSWORD", "dayfly secrets set "+name+" TOKEN", "dayfly secrets set "+name+" KEY")
		p.invoke(t, name, map[string]string{"do": "config"}).wantProblem(t, http.StatusNotFound, wire.CodeNotFound)
		value := uuid.NewString()
		for _, secret := range []string{"TOKEN", "KEY", "PASSWORD"} {
			p.setSecret(t, name, secret, value)
		}
		p.cli(t, "deploy", dir).wantExit(t, 0)
		first := p.secretOf(t, name, "TOKEN", value)
		instance := first.Instance
		for secret, want := range map[string]seenSecret{
			"TOKEN":    {Env: "same", File: "same", Mode: "-r--------", Own: true, Instance: instance},
			"KEY":      {Env: "missing", File: "same", Mode: "-r--------", Own: true, Instance: instance},
			"PASSWORD": {Env: "same", File: "missing", Instance: instance},
		} {
			if got := p.secretOf(t, name, secret, value); got != want {
				t.Errorf("%s is %+v, want %+v", secret, got, want)
			}
		}
		wantNowhere(t, p, value)
		// A new value is in the file of the same instance; its variable stays.
		begun, second := time.Now(), uuid.NewString()
		p.setSecret(t, name, "TOKEN", second)
		eventually(t, settled, func() error {
			if got := p.secretOf(t, name, "TOKEN", second); got.File != "same" || got.Env != "other" || got.Instance != instance {
				return fmt.Errorf("it is %+v", got)
			}
			return nil
		})
		t.Logf("from the command to the file: %s", time.Since(begun))
		p.cli(t, "secrets", "rotate").wantExit(t, 0, "anew")
		if got := p.secretOf(t, name, "TOKEN", second); got.File != "same" || got.Instance != instance {
			t.Errorf("after all were sealed anew it is %+v", got)
		}
		// A new instance has it everywhere.
		p.deploy(t, f)
		if got := p.secretOf(t, name, "TOKEN", second); got.File != "same" || got.Env != "same" {
			t.Errorf("in a new instance it is %+v", got)
		}
		out := p.cli(t, "secrets", "list", name).wantExit(t, 0, "TOKEN", "KEY", "PASSWORD")
		if strings.Contains(out.stdout+out.stderr, second) {
			t.Error("the list shows a value")
		}
		p.cli(t, "delete", name, "--yes").wantExit(t, 0)
		p.cli(t, "secrets", "list", name).wantExit(t, 0, "no secrets")
	})
}

// wantNowhere fails when a text is where others on the machine look: in the arguments of
// a process, in what the container engine tells, in the platform's folder or log.
func wantNowhere(t *testing.T, p *platform, text string) {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(text)) {
			t.Errorf("%s shows the secret", path)
		}
	}
	for _, c := range world.docker.of(t, p.node) {
		var inspected json.RawMessage
		if err := world.docker.ask(http.MethodGet, "/containers/"+c.ID+"/json", nil, &inspected); err != nil {
			continue // it ended meanwhile
		}
		if bytes.Contains(inspected, []byte(text)) {
			t.Errorf("docker inspect %s shows the secret", c.name())
		}
	}
	if found := p.find(t, text); len(found) > 0 {
		t.Errorf("the secret is in %s", strings.Join(found, ", "))
	}
}

// find returns the files in the platform's folder, and the processes whose log, have a
// text, or its base64.
func (p *platform) find(t *testing.T, text string) (found []string) {
	t.Helper()
	shapes := [][]byte{[]byte(text)}
	for skip := range 3 { // as part of something longer, it begins at one of three places
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", skip) + text))
		shapes = append(shapes, []byte(encoded[4:len(encoded)-4]))
	}
	has := func(data []byte) bool {
		for _, shape := range shapes {
			if bytes.Contains(data, shape) {
				return true
			}
		}
		return false
	}
	err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() { // what is gone meanwhile; what would wait for a writer
			return ignoreMissing(err)
		}
		data, err := os.ReadFile(path)
		if err == nil && has(data) {
			found = append(found, path)
		}
		return ignoreMissing(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range p.all {
		if has([]byte(strings.Join(proc.log.all(), "\n"))) {
			found = append(found, "the log of "+proc.name)
		}
	}
	return found
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// TestNothingStoredShowsASecret: after calls of every kind no message, object or line of
// log has a value, whereas a value that is no secret is found.
func TestNothingStoredShowsASecret(t *testing.T) {
	t.Parallel()
	p := private(t, "up", options{sandbox: onOCI})
	const name = "quiet"
	secret, plain := uuid.NewString(), uuid.NewString()
	p.setSecret(t, name, "TOKEN", secret)
	p.cli(t, "config", "set", name, "PLAIN="+plain).wantExit(t, 0)
	p.deploy(t, settingsFunction(t, name, "secrets: [TOKEN]\noutput: {store: true}\nretry: {attempts: 1}\n"))
	if got := p.secretOf(t, name, "TOKEN", secret); got.Env != "same" || got.File != "same" {
		t.Fatalf("the function has not its secret: %+v", got)
	}
	p.invoke(t, name, map[string]string{"do": "fail"}).want(t, http.StatusBadGateway)
	id := p.do(t, http.MethodPost, "/v1/functions/"+name+"/invocations", []byte(`{"do":"fail"}`), "Prefer: respond-async").want(t, http.StatusAccepted).invocation()
	eventually(t, settled, func() error {
		if r := p.record(t, id); r.State != wire.StateDead {
			return fmt.Errorf("the event is %s", r.State)
		}
		return nil
	})
	p.cli(t, "secrets", "rotate").wantExit(t, 0)
	p.cli(t, "logs", name).wantExit(t, 0)
	wantNowhere(t, p, secret)
	if found := p.find(t, plain); len(found) == 0 {
		t.Error("the search finds nothing at all")
	}
	info, err := os.Stat(filepath.Join(p.dir, "data", "secrets.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file is %v, %v", info, err)
	}
}

// TestSecretsNeedTheKey: without its file what needs it says so, and the rest works.
func TestSecretsNeedTheKey(t *testing.T) {
	t.Parallel()
	out, err := runCommand(nil, "", "up", "--data", t.TempDir(), "--secrets-key", "/nothing/here", "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out.wantExit(t, 2, "--secrets-key", "/nothing/here")
}
