package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestVersionsAndAliases: live moves to and fro, is split, and is rolled back while calls
// run, of which none fails; a version that does not start never has one.
func TestVersionsAndAliases(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		f := files{"dayfly.yaml": "name: moving\nruntime: python\nhandler: app.handler\nmaxInstances: 4\nenv: {TEXT: one}\n", "app.py": testdata(t, "probe/app.py")}
		p.deploy(t, f)
		f["dayfly.yaml"] = strings.Replace(f["dayfly.yaml"], "one", "two", 1)
		p.deploy(t, f)
		answers := map[string]bool{`{"version": "1", "text": "one"}`: true, `{"version": "2", "text": "two"}`: true}
		stop := make(chan struct{})
		end := sync.OnceFunc(func() { close(stop) })
		var calling sync.WaitGroup
		defer calling.Wait()
		defer end()
		for range 3 {
			calling.Go(func() {
				for {
					a, err := p.call("moving", map[string]string{"do": "version"})
					if err != nil || a.status != http.StatusOK || !answers[string(a.body)] {
						t.Errorf("a call failed: %v, %d %s", err, a.status, a.body)
						return
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		version := func(want int) {
			t.Helper()
			var got struct{ Version string }
			a := p.invoke(t, "moving", map[string]string{"do": "version"}).want(t, http.StatusOK)
			if err := json.Unmarshal(a.body, &got); err != nil || got.Version != fmt.Sprint(want) {
				t.Errorf("a call went to %s, want version %d", a.body, want)
			}
		}
		for range 3 {
			p.cli(t, "rollback", "moving").wantExit(t, 0, "moving is back at version 1, from 2")
			version(1)
			p.cli(t, "alias", "set", "moving", "live", "--version", "1", "--weight", "2=50").wantExit(t, 0, "version 1 with 50% to 2")
			p.cli(t, "alias", "set", "moving", "live", "--version", "2").wantExit(t, 0, "live of moving is version 2")
			version(2)
		}
		// What does not start has no call, and its own error is the deploy's.
		broken := files{"dayfly.yaml": f["dayfly.yaml"], "app.py": "print('about to break')\nimport nowhere\n"}
		dir := t.TempDir()
		if err := broken.folder(dir); err != nil {
			t.Fatal(err)
		}
		p.cli(t, "deploy", dir).wantExit(t, 4, "version 3 of moving is built but does not start, so live stays at version 2", "nowhere", "about to break")
		p.cli(t, "alias", "set", "moving", "live", "--version", "3").wantExit(t, 4, "does not start, so live stays where it is")
		version(2)
		end()
		calling.Wait()
		p.cli(t, "versions", "moving").wantExit(t, 0, "3 ", "2 ", "live")
		p.cli(t, "diff", "moving", "1", "2").wantExit(t, 0, "env.TEXT", `"one"`, `"two"`)
		p.cli(t, "diff", "moving", "2", "3").wantExit(t, 0, "app.py")
	})
}
