package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Point 4: the command line, and versions.

func TestDeployIsReproducible(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		f := files{"dayfly.yaml": "name: same\nruntime: python\nhandler: app.handler\n", "app.py": testdata(t, "probe/app.py"), "deep/er/file": "x"}
		first := p.deploy(t, f)
		second := p.deploy(t, f) // another folder, later times
		if first.Version.Code == "" || first.Version.Code != second.Version.Code {
			t.Errorf("the same content has the digests %s and %s", first.Version.Code, second.Version.Code)
		}
		if first.Version.Number != 1 || second.Version.Number != 2 || first.URL != p.url+"/f/same" {
			t.Errorf("got %+v and %+v", first, second)
		}
		f["deep/er/file"] = "y"
		if third := p.deploy(t, f); third.Version.Code == first.Version.Code {
			t.Error("other content has the same digest")
		}
		// Which number is live, and that numbers stay.
		p.invoke(t, "same", map[string]string{"do": "version"}).wantJSON(t, `{"version": "3", "text": null}`)
		p.invoke(t, "same:1", map[string]string{"do": "version"}).wantJSON(t, `{"version": "1", "text": null}`)
		p.invoke(t, "same:live", map[string]string{"do": "version"}).wantJSON(t, `{"version": "3", "text": null}`)
	})
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		dir := t.TempDir()
		f := files{"dayfly.yaml": "name: tool\nruntime: python\nhandler: app.handler\nenv: {TEXT: shown}\n", "app.py": testdata(t, "probe/app.py")}
		if err := f.folder(dir); err != nil {
			t.Fatal(err)
		}
		p.cli(t, "deploy", dir, "--namespace", "cli").wantExit(t, 0, "tool.cli", "sha256:", p.url+"/f/tool.cli", "dayfly invoke tool.cli")
		p.cli(t, "list").wantExit(t, 0, "FUNCTION", "tool.cli")
		p.cli(t, "describe", "tool.cli").wantExit(t, 0, "python", "app.handler", "128", `TEXT="shown"`, "30s")
		p.cli(t, "nodes", "-w").wantExit(t, 0, p.node, "ready", "docker", "python", "node", "go", "provided")
		if out := p.cli(t, "invoke", "tool.cli", "--data", `{"do":"version"}`).wantExit(t, 0); out.stdout != `{"version": "1", "text": "shown"}` && out.stdout != `{"version": "1", "text": "shown"}`+"\n" {
			t.Errorf("stdout is %q", out.stdout)
		}
		event := filepath.Join(dir, "event.json")
		if err := os.WriteFile(event, []byte(`{"do":"echo","value":"from a file"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		p.cli(t, "invoke", "tool.cli", "--data", "@"+event).wantExit(t, 0, "from a file")
		out, err := runCommand([]string{"DAYFLY_URL=" + p.url}, `{"do":"echo","value":"from stdin"}`, "invoke", "tool.cli", "--data", "-")
		if err != nil {
			t.Fatal(err)
		}
		out.wantExit(t, 0, "from stdin")
		for _, command := range [][]string{{"list"}, {"nodes"}, {"describe", "tool.cli"}} {
			out := p.cli(t, append(command, "-o", "json")...).wantExit(t, 0)
			if !json.Valid([]byte(out.stdout)) {
				t.Errorf("%v -o json prints %s", command, out.stdout)
			}
		}

		// What scripts can use.
		p.cli(t, "invoke", "tool.cli", "--data", "{").wantExit(t, 2, "not JSON", "line 1")
		p.cli(t, "invoke", "tool.cli", "--data", "@"+filepath.Join(dir, "none")).wantExit(t, 2, "none")
		p.cli(t, "invoke", "Not_A_Name").wantExit(t, 2, "Not_A_Name")
		p.cli(t, "invoke", "nobody").wantExit(t, 3, "nobody", "dayfly list")
		p.cli(t, "describe", "nobody").wantExit(t, 3, "nobody")
		p.cli(t, "logs", "nobody").wantExit(t, 3, "nobody")
		p.cli(t, "delete", "nobody", "--yes").wantExit(t, 3, "nobody")
		p.cli(t, "invoke", "tool.cli", "--data", `{"do":"raise"}`).wantExit(t, 4, "boom 42", "about to raise", "app.py")
		p.cli(t, "invoke", "tool.cli", "--data", `{"do":"exit","status":3}`).wantExit(t, 4, "status 3")
		p.cli(t, "ivoke", "tool.cli").wantExit(t, 2, "invoke")
		p.cli(t, "delete", "tool.cli").wantExit(t, 2, "--yes") // nobody to ask
		closed, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		p.cli(t, "list", "--url", "http://"+closed).wantExit(t, 5, closed, "dayfly up")

		p.cli(t, "delete", "tool.cli", "--yes").wantExit(t, 0, "deleted tool.cli")
		p.cli(t, "invoke", "tool.cli").wantExit(t, 3)
		if names := p.names(t, "cli"); len(names) != 0 {
			t.Errorf("left in the list: %v", names)
		}
	})
}

// TestDeployWhileCallsRun: a new version goes live without a call that fails.
func TestDeployWhileCallsRun(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		f := files{"dayfly.yaml": "name: rolling\nruntime: python\nhandler: app.handler\nmaxInstances: 4\nenv: {TEXT: one}\n", "app.py": testdata(t, "probe/app.py")}
		p.deploy(t, f)
		stop := make(chan struct{})
		end := sync.OnceFunc(func() { close(stop) })
		var wait sync.WaitGroup
		defer wait.Wait()
		defer end()
		seen := make([]map[string]int, 3)
		for i := range seen {
			seen[i] = map[string]int{}
			wait.Go(func() {
				for {
					a, err := p.call("rolling", map[string]string{"do": "version"})
					if err != nil || a.status != http.StatusOK {
						t.Errorf("a call failed: %v, %d %s", err, a.status, a.body)
						return
					}
					seen[i][string(a.body)]++
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		f["dayfly.yaml"] = strings.Replace(f["dayfly.yaml"], "one", "two", 1)
		p.deploy(t, f)
		// From the moment that deploy returns, every new call is the new version's.
		p.invoke(t, "rolling", map[string]string{"do": "version"}).wantJSON(t, `{"version": "2", "text": "two"}`)
		end()
		wait.Wait()
		for _, answers := range seen {
			for text := range answers {
				if text != `{"version": "1", "text": "one"}` && text != `{"version": "2", "text": "two"}` {
					t.Errorf("answers: %v", answers)
				}
			}
		}
	})
}

// TestDeleteAndDeployAgain: the old code is gone, numbers are never used again.
func TestDeleteAndDeployAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		f := files{"dayfly.yaml": "name: phoenix\nruntime: python\nhandler: app.handler\n", "app.py": "def handler(event, context):\n    return 'old'\n"}
		p.deploy(t, f)
		p.invoke(t, "phoenix", nil).wantJSON(t, `"old"`)
		p.do(t, http.MethodDelete, "/v1/functions/phoenix", nil).want(t, http.StatusNoContent)
		p.invoke(t, "phoenix", nil).wantProblem(t, http.StatusNotFound, "not_found", "phoenix")
		f["app.py"] = "def handler(event, context):\n    return 'new'\n"
		if d := p.deploy(t, f); d.Version.Number != 2 {
			t.Errorf("the new version has the number %d", d.Version.Number)
		}
		p.invoke(t, "phoenix", nil).wantJSON(t, `"new"`)
		p.invoke(t, "phoenix:1", nil).wantProblem(t, http.StatusNotFound, "not_found", "1")
	})
}

// TestDeploysAtOnce: of many deploys at the same time each gets a number of its own.
func TestDeploysAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		const n = 5
		numbers := make([]int, n)
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() {
				d, err := p.deployFiles(files{
					"dayfly.yaml": fmt.Sprintf("name: raced\nruntime: python\nhandler: app.handler\nenv: {TEXT: t%d}\n", i),
					"app.py":      testdata(t, "probe/app.py"),
				})
				if err != nil {
					t.Error(err)
				}
				numbers[i] = d.Version.Number
			})
		}
		wait.Wait()
		seen := map[int]int{}
		for i, number := range numbers {
			if number < 1 || number > n {
				t.Errorf("deploy %d got number %d", i, number)
			}
			seen[number] = i
		}
		if len(seen) != n {
			t.Fatalf("the numbers are %v", numbers)
		}
		p.invoke(t, "raced", map[string]string{"do": "version"}).wantJSON(t, fmt.Sprintf(`{"version": "%d", "text": "t%d"}`, n, seen[n]))
	})
}
