package e2e_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// Points 5 and 6: the runtimes.

func TestPython(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		a := p.invoke(t, name, map[string]any{"do": "who"}).want(t, http.StatusOK)
		got := decode[struct {
			User         int
			Request, ARN string
			Memory       string
			Left         int
		}](t, a)
		if got.User == 0 || got.Request != a.invocation() || got.Memory != "128" || got.Left < 20_000 || got.Left > 30_000 ||
			!strings.HasPrefix(got.ARN, "arn:dayfly:lambda:local:default:function:probe:") {
			t.Errorf("the function sees %+v in invocation %s", got, a.invocation())
		}
	})
}

func TestNode(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: greeter\nruntime: node\nhandler: index.handler\n", "node/index.mjs")
		got := decode[struct {
			Greeting, Version string
			Left              int
		}](t, p.invoke(t, name, map[string]string{"name": "Ada"}))
		if got.Greeting != "Hello, Ada!" || got.Version != "1" || got.Left < 1000 {
			t.Errorf("got %+v", got)
		}
		doc := p.invoke(t, name, map[string]string{"name": "nobody"}).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "nobody is not a name")
		if doc.ErrorType != "TypeError" || !strings.Contains(strings.Join(doc.Trace, "\n"), "index.mjs") ||
			!strings.Contains(doc.Logs, "node was asked for nobody") {
			t.Errorf("got %+v", doc)
		}
	})
}

func TestGoSource(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: orders\nruntime: go\n", "go/main.go.txt")
		p.invoke(t, name, map[string]any{"item": "pear", "count": 3}).wantJSON(t, `{"count":6,"item":"pear"}`)
		p.invoke(t, name, map[string]any{"item": "pear"}).
			wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "count must be at least 1")
	})
}

// TestGoModule builds a function whose module depends on another, which the builder
// fetches. Whoever builds it makes the same of it.
func TestGoModule(t *testing.T) {
	t.Parallel()
	var digest string
	on(t, apart(), func(t *testing.T, p *platform) { // one after the other: at other times
		name := "module"
		sameDigest(t, &digest, p.deploy(t, files{
			"dayfly.yaml": "name: " + name + "\nruntime: go\n",
			"main.go":     testdata(t, "lambdago/main.go.txt"),
			"go.mod":      "module example.com/module\n\ngo 1.24\n\nrequire github.com/aws/aws-lambda-go v1.47.0\n",
		}))
		wantLambda(t, p, name)
	})
}

// wantLambda calls a function of testdata/lambdago.
func wantLambda(t *testing.T, p *platform, name string) {
	t.Helper()
	a := p.invoke(t, name, map[string]string{"name": "Ada"})
	got := decode[struct {
		Greeting, Request, Function string
		Deadline                    bool
	}](t, a)
	if got.Greeting != "Hello, Ada!" || got.Request != a.invocation() || got.Function != name || !got.Deadline {
		t.Errorf("got %+v in invocation %s", got, a.invocation())
	}
	doc := p.invoke(t, name, map[string]string{}).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "a name is missing")
	if !strings.Contains(doc.Logs, "lambda was asked for") {
		t.Errorf("the error carries no log: %+v", doc)
	}
}

// TestLambdaBinary deploys what a user of AWS Lambda has: a static binary with the
// stock client, compiled elsewhere.
func TestLambdaBinary(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := files{
		"main.go": testdata(t, "lambdago/main.go.txt"),
		"go.mod":  "module example.com/lambda\n\ngo 1.24\n\nrequire github.com/aws/aws-lambda-go v1.55.1\n",
	}
	if err := source.folder(dir); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-mod=mod", "-o", "bootstrap", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "bootstrap"))
	if err != nil {
		t.Fatal(err)
	}
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		p.deploy(t, files{"dayfly.yaml": "name: lambda\nruntime: provided\n", "bootstrap": string(binary)})
		wantLambda(t, p, "lambda")
	})
}

func TestShellBootstrap(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shell(t)
		p.invoke(t, name, map[string]string{"a": "ä"}).wantJSON(t, `{"a":"ä"}`)
		doc := p.invoke(t, name, "error").wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "the shell failed")
		if doc.ErrorType != "Shell.Failed" || !strings.Contains(doc.Logs, "shell got 7 bytes") {
			t.Errorf("got %+v", doc)
		}
	})
}

func (p *platform) shell(t *testing.T) string {
	t.Helper()
	return p.shared(t, "name: shell\nruntime: provided\n", "shell/bootstrap")
}

// TestExamples deploys every example and makes the calls of its demo.json; on `up`, TestMake
// does.
func TestExamples(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob(filepath.Join(world.repo, "examples", "*", "dayfly.yaml"))
	if err != nil || len(folders) < 5 {
		t.Fatalf("examples: %v, %v", folders, err)
	}
	on(t, []sharedSetup{{"roles", world.roles}}, func(t *testing.T, p *platform) {
		t.Parallel()
		demo, err := world.demo()
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"--url", p.url}
		for _, manifest := range folders {
			folder := filepath.Dir(manifest)
			p.cli(t, "deploy", folder).wantExit(t, 0, p.url+"/f/"+filepath.Base(folder))
			args = append(args, folder)
		}
		if out, err := exec.Command(demo, args...).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
