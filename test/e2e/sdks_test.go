package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Functions that ask the platform for all that the SDKs offer, without a network. Each
// calls another one, now and later, publishes, reads its configuration and leaves a file.
var callers = map[string]files{
	"go": {"dayfly.yaml": "runtime: go\n", "main.go": `package main

import (
	"context"
	"strings"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

type answer struct {
	Doubled  int    ` + "`json:\"doubled\"`" + `
	Later    string ` + "`json:\"later\"`" + `
	Greeting string ` + "`json:\"greeting\"`" + `
}

func main() {
	dayfly.Start(func(ctx context.Context, n int) (out answer, err error) {
		dayfly.Logger(ctx).Warn("asked", "n", n)
		if err := dayfly.Put(ctx, "a/b.txt", strings.NewReader("text")); err != nil {
			return out, err
		}
		if err := dayfly.Publish(ctx, "sdks.go", n); err != nil {
			return out, err
		}
		if out.Later, err = dayfly.InvokeAsync(ctx, "double.default", n, ""); err != nil {
			return out, err
		}
		out.Greeting = dayfly.ConfigValue(ctx, "greeting", "?")
		out.Doubled, err = dayfly.Invoke[int, int](ctx, "double", n)
		return out, err
	})
}
`},
	"python": {"dayfly.yaml": "runtime: python\nhandler: app.handler\n", "app.py": `import dayfly

def handler(n, context):
    dayfly.log.warn("asked", n=n)
    dayfly.put("a/b.txt", "text")
    dayfly.publish("sdks.python", n)
    return {"doubled": dayfly.invoke("double", n), "later": dayfly.invoke_async("double.default", n),
            "greeting": dayfly.config.get("greeting", "?")}
`},
	"node": {"dayfly.yaml": "runtime: node\nhandler: index.handler\n", "index.mjs": `import { config, invoke, invokeAsync, log, publish, put } from 'dayfly';

export const handler = async (n) => {
  log.warn('asked', { n });
  put('a/b.txt', 'text');
  await publish('sdks.node', n);
  return { doubled: await invoke('double', n), later: await invokeAsync('double.default', n), greeting: await config.get('greeting', '?') };
};
`},
}

func TestSDKs(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		p.deploy(t, files{"dayfly.yaml": "name: double\nruntime: python\nhandler: app.handler\n", "app.py": "def handler(n, context): return 2 * n\n"})
		p.deploy(t, files{
			"dayfly.yaml": "name: sdk-listener\nruntime: python\nhandler: app.handler\ntriggers:\n  - queue: {subject: \"sdks.>\"}\n", "app.py": collector,
		})
		for runtime, source := range callers {
			t.Run(runtime, func(t *testing.T) {
				t.Parallel()
				name := "sdk-" + runtime
				f := files{}
				for file, text := range source {
					f[file] = text
				}
				f["dayfly.yaml"] = "name: " + name + "\nnetwork: none\noutput: {store: true}\n" + f["dayfly.yaml"]
				p.deploy(t, f)
				p.do(t, http.MethodPatch, "/v1/functions/"+name+"/config", []byte(`{"set":{"greeting":"Hello"}}`), "Content-Type: application/json").want(t, http.StatusOK)
				p.wantSDK(t, name, "sdks."+runtime)
			})
		}
	})
}

// wantSDK calls a function of callers and looks at what came of all that it asked for.
func (p *platform) wantSDK(t *testing.T, name, subject string) {
	t.Helper()
	a := p.invoke(t, name, 7)
	got := decode[struct {
		Doubled         int
		Later, Greeting string
	}](t, a)
	if got.Doubled != 14 {
		t.Errorf("got %+v", got)
	}
	if got.Greeting != "Hello" { // the configuration may be newer than what the node has heard
		err := poll(patience, func() error {
			a = p.invoke(t, name, 7)
			if got = decode[struct {
				Doubled         int
				Later, Greeting string
			}](t, a); got.Greeting != "Hello" {
				return fmt.Errorf("got %+v", got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	later := p.ended(t, wire.InvocationID(got.Later), wire.StateSucceeded)
	if later.Cause != wire.InvocationID(a.invocation()) || later.Source != wire.SourceFunction {
		t.Errorf("what runs later is %+v", later)
	}
	if file := p.do(t, http.MethodGet, "/v1/invocations/"+a.invocation()+"/output/a/b.txt", nil).want(t, http.StatusOK); string(file.body) != "text" {
		t.Errorf("it left %q", file.body)
	}
	if text := p.printed(t, name, a.invocation()); !strings.Contains(text, `"level":`) {
		t.Errorf("it printed %s", text)
	}
	if err := poll(time.Minute, func() error {
		for _, c := range p.collected(t, "sdk-listener") {
			for _, r := range c.Records {
				if r.Attributes["Subject"] == subject && r.Body == "7" {
					return nil
				}
			}
		}
		return fmt.Errorf("nobody got the message on %s", subject)
	}); err != nil {
		t.Error(err)
	}
}

// TestFunctionsInACircle: the last step of a loop fails, and all before it.
func TestFunctionsInACircle(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		p.deploy(t, files{
			"dayfly.yaml": "name: circle\nruntime: python\nhandler: app.handler\nnetwork: none\nconcurrency: 20\ntimeout: 2m\n",
			"app.py":      "import dayfly\n\ndef handler(n, context): return dayfly.invoke('circle', n + 1)\n",
		})
		doc := p.invoke(t, "circle", 0).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "a loop; look at what circle calls and publishes")
		if doc.ErrorType != "Error" {
			t.Errorf("got %+v", doc)
		}
	})
}
