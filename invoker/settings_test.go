package invoker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// using makes a function use secrets.
func using(uses ...functions.SecretUse) func(*functions.Spec) {
	return func(s *functions.Spec) { s.Secrets = uses }
}

// deployWith is deploy of a function whose secrets are set before: all to one value.
func (n *node) deployWith(value string, uses ...functions.SecretUse) wire.VersionID {
	n.tb.Helper()
	v := n.deploy(using(uses...))
	for _, use := range uses {
		n.setSecret(v, use.Name, value)
	}
	return v
}

func (n *node) setSecret(v wire.VersionID, name, value string) {
	n.tb.Helper()
	_, err := shared.settings.SetSecret(n.tb.Context(), v.FunctionID, name, functions.NewSecret(value), time.Now())
	must(n.tb, err)
}

// tell plays a function that answers with what it finds: an event is the name of a file
// of secrets, the whole assignment for "env", or a path of the Runtime API.
func tell(p *process, _ string, event []byte) ([]byte, error) {
	var asked string
	if err := json.Unmarshal(event, &asked); err != nil {
		return nil, err
	}
	var found []byte
	switch {
	case asked == "env":
		found = []byte(string(p.told) + p.script)
	case strings.HasPrefix(asked, "/dayfly"):
		_, body, err := p.do(http.MethodGet, asked, nil)
		if err != nil {
			return nil, err
		}
		found = body
	default:
		path, err := p.Path(functions.SecretsRoot + "/" + asked)
		if err != nil {
			return nil, err
		}
		if found, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
			found = []byte("no such file")
		} else if err != nil {
			return nil, err
		}
	}
	return json.Marshal(string(found))
}

// ask asks such a function.
func (n *node) ask(v wire.VersionID, what string) string {
	n.tb.Helper()
	a := n.cold(v, fmt.Sprintf("%q", what))
	if a.Error != nil {
		n.tb.Fatal(a.Error)
	}
	var text string
	must(n.tb, json.Unmarshal(a.body, &text))
	return text
}

func TestSecretsOfAnInstance(t *testing.T) {
	for _, runtime := range []string{functions.RuntimePython, functions.RuntimeProvided} {
		t.Run(runtime, func(t *testing.T) {
			n := startNode(t, each(tell))
			value := uuid.NewString()
			uses := []functions.SecretUse{{Name: "BOTH", As: functions.SecretAsBoth}, {Name: "ENV", As: functions.SecretAsEnv}, {Name: "FILE", As: functions.SecretAsFile}}
			v := n.deploy(using(uses...), func(s *functions.Spec) { s.Runtime = runtime })
			for _, use := range uses {
				n.setSecret(v, use.Name, use.Name+value)
			}
			env := n.ask(v, "env")
			for name, want := range map[string]bool{"BOTH": true, "ENV": true, "FILE": false} {
				if got := strings.Contains(env, name+value); got != want {
					t.Errorf("%s in the environment: %t", name, got)
				}
			}
			for name, want := range map[string]string{"BOTH": "BOTH" + value, "ENV": "no such file", "FILE": "FILE" + value} {
				if got := n.ask(v, name); got != want {
					t.Errorf("file %s is %q", name, got)
				}
			}
			// Only the function's user reads them, and nothing half made is left.
			dir, err := n.only(v).container.OpenDir(functions.SecretsRoot)
			must(t, err)
			defer dir.Close()
			list, err := fs.ReadDir(dir.FS(), ".")
			must(t, err)
			if len(list) != 2 {
				t.Errorf("the folder has %v", list)
			}
			for _, entry := range list {
				info, err := entry.Info()
				must(t, err)
				owner, ok := info.Sys().(*syscall.Stat_t)
				if !ok || info.Mode() != 0o400 || owner.Uid != functionUID {
					t.Errorf("%s is %v of user %d", entry.Name(), info.Mode(), owner.Uid)
				}
			}
		})
	}
}

// only returns the one instance of a version.
func (n *node) only(v wire.VersionID) *instance {
	n.tb.Helper()
	n.inv.mu.Lock()
	defer n.inv.mu.Unlock()
	for _, in := range n.inv.instances {
		if in.version.VersionID == v {
			return in
		}
	}
	n.tb.Fatal("there is no instance")
	return nil
}

// Files of a running instance follow every change; its variables stay.
func TestSecretFilesFollowChanges(t *testing.T) {
	n := startNode(t, each(tell))
	use := functions.SecretUse{Name: "TOKEN", As: functions.SecretAsBoth}
	v := n.deployWith("first-value", use)
	if got := n.ask(v, "TOKEN"); got != "first-value" {
		t.Fatalf("at first %q", got)
	}
	instance := n.only(v)
	becomes := func(want string) {
		t.Helper()
		embedtest.Eventually(t, want, func() bool { return n.ask(v, "TOKEN") == want })
	}
	n.setSecret(v, "TOKEN", "second-value")
	becomes("second-value")
	if env := n.ask(v, "env"); !strings.Contains(env, "first-value") || strings.Contains(env, "second-value") {
		t.Errorf("the environment changed: %s", env)
	}
	must(t, shared.settings.UnsetSecret(t.Context(), v.FunctionID, "TOKEN"))
	becomes("no such file")
	n.setSecret(v, "TOKEN", "third-value")
	becomes("third-value")
	if _, err := shared.settings.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	if n.only(v) != instance {
		t.Error("another instance answers")
	}
	// A new one has the new value everywhere.
	instance.container.Kill()
	embedtest.Eventually(t, "a new instance with the new value", func() bool {
		a := n.cold(v, `"env"`)
		return a.Error == nil && strings.Contains(string(a.body), "third-value") && !strings.Contains(string(a.body), "first-value")
	})
}

func TestSecretThatIsNotSet(t *testing.T) {
	n := startNode(t, each(tell))
	v := n.deploy(using(functions.SecretUse{Name: "TOKEN", As: functions.SecretAsEnv}))
	n.wantError(n.cold(v, `"env"`), wire.CodeConflict, false, "dayfly secrets set "+v.FunctionID.String()+" TOKEN")
	n.setSecret(v, "TOKEN", "value")
	if env := n.ask(v, "env"); !strings.Contains(env, "value") {
		t.Error("it is not there once it is set")
	}
	n.await("empty but for one", func(s wire.NodeState) bool { return s.Reserved.Instances == 1 })
}

func TestConfigurationOfAnInstance(t *testing.T) {
	n := startNode(t, each(tell))
	v := n.deploy()
	change := func(value string) functions.Config {
		t.Helper()
		c, err := shared.settings.ChangeConfig(t.Context(), v.FunctionID, map[string]string{"K": value}, nil)
		must(t, err)
		return c
	}
	read := func(query string) (c functions.Config) {
		t.Helper()
		must(t, json.Unmarshal([]byte(n.ask(v, "/dayfly/v1/config"+query)), &c))
		return c
	}
	if c := read(""); c.Revision != functions.NoConfigRevision || len(c.Values) != 0 {
		t.Errorf("before there is any: %+v", c)
	}
	first := change("a")
	if c := read("?after=" + functions.NoConfigRevision); c.Revision != first.Revision || c.Values["K"] != "a" {
		t.Errorf("at first %+v", c)
	}
	// A question that waits hears of the next change.
	waiting := n.background(v, fmt.Sprintf("%q", "/dayfly/v1/config?after="+first.Revision))
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 1})
	second := change("b")
	a := <-waiting
	var text string
	must(t, json.Unmarshal(a.body, &text))
	var c functions.Config
	if err := json.Unmarshal([]byte(text), &c); err != nil || c.Revision != second.Revision || c.Values["K"] != "b" {
		t.Errorf("%s: %+v, %v", text, c, err)
	}
}
