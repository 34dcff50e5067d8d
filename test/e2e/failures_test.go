package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Point 8: what a function may do wrong.

// TestDeadline: what would run for ever ends at its deadline, with all that it started.
func TestDeadline(t *testing.T) {
	t.Parallel()
	const timeout = 3 * time.Second // also on a busy machine it can say which instance it is
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: short\nruntime: python\nhandler: app.handler\ntimeout: 3s\n", "probe/app.py")
		for _, misdeed := range []string{"sleep", "spin", "ignore", "fork"} {
			t.Run(misdeed, func(t *testing.T) {
				// A warm call, so that the deadline is counted from about now.
				instance := decode[string](t, p.invoke(t, name, map[string]string{"do": "instance"}))
				a := p.invoke(t, name, map[string]any{"do": misdeed, "seconds": 600})
				doc := a.wantProblem(t, http.StatusGatewayTimeout, wire.CodeFunctionTimeout, "timeout of 3s")
				if a.took < timeout {
					t.Errorf("the answer came after %s", a.took)
				}
				if misdeed != "sleep" && !strings.Contains(doc.Logs, "before the end") {
					t.Errorf("the last log lines are %q", doc.Logs)
				}
				r := p.record(t, a.invocation())
				if string(r.Instance) != instance || r.State != wire.StateFailed || r.Error == nil || r.Error.Code != wire.CodeFunctionTimeout {
					t.Errorf("record %+v, error %v; the instance was %s", r, r.Error, instance)
				}
				eventually(t, patience, func() error {
					if left := processesWith("DAYFLY_INSTANCE=" + instance); len(left) > 0 {
						return errors.New(strings.Join(left, "\n"))
					}
					if slices.Contains(p.instances(t), instance) {
						return errors.New("its container is still there")
					}
					return nil
				})
				if next := decode[string](t, p.invoke(t, name, map[string]string{"do": "instance"})); next == instance {
					t.Error("the instance was used again")
				}
			})
		}
	})
}

// TestDeadlineOfStart: a function that never asks for its first event.
func TestDeadlineOfStart(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.aside(t, files{"dayfly.yaml": "name: stuck\nruntime: provided\n", "bootstrap": "#!/bin/sh\necho stuck here\nexec sleep 600\n"})
		a := p.invoke(t, name, nil)
		doc := a.wantProblem(t, http.StatusGatewayTimeout, wire.CodeFunctionTimeout, "first event")
		if !strings.Contains(doc.Logs, "stuck here") || a.took < wire.InitTimeout {
			t.Errorf("after %s: %+v", a.took, doc)
		}
	})
}

// TestFailures has a row for each way in which a function fails by itself. All of
// them are the function's failures, carry its last lines, and leave the next call be.
func TestFailures(t *testing.T) {
	t.Parallel()
	cases := []struct {
		event  map[string]any
		code   wire.Code
		kind   string // error type
		detail string
		logs   string
	}{
		{map[string]any{"do": "raise"}, wire.CodeFunctionError, "ValueError", "boom 42", "about to raise"},
		{map[string]any{"do": "unwritable"}, wire.CodeFunctionError, "Runtime.MarshalError", "JSON", ""},
		{map[string]any{"do": "exit", "status": 3}, wire.CodeFunctionExited, "", "status 3", "about to exit"},
		{map[string]any{"do": "exit", "status": 0}, wire.CodeFunctionExited, "", "status 0", "about to exit"},
		{map[string]any{"do": "crash"}, wire.CodeFunctionExited, "", "signal 11", "about to crash"},
		{map[string]any{"do": "eat"}, wire.CodeFunctionOutOfMemory, "", "128 MiB", "about to eat"},
	}
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		for _, c := range cases {
			t.Run(fmt.Sprint(c.event["do"], c.event["status"]), func(t *testing.T) {
				a := p.invoke(t, name, c.event)
				doc := a.wantProblem(t, http.StatusBadGateway, c.code, c.detail)
				if doc.ErrorType != c.kind || !strings.Contains(doc.Logs, c.logs) || doc.Invocation != a.invocation() || doc.Invocation == "" {
					t.Errorf("got %+v", doc)
				}
				if r := p.record(t, doc.Invocation); r.State != wire.StateFailed || r.Error == nil || r.Error.Code != c.code || r.EndedAt.Before(r.StartedAt) {
					t.Errorf("record %+v", r)
				}
				p.invoke(t, name, map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
			})
		}
	})
}

// TestTooLittleMemory: a limit below what the function takes to start.
func TestTooLittleMemory(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.aside(t, files{
			"dayfly.yaml": "name: cramped\nruntime: python\nhandler: app.handler\nmemory: 32Mi\n",
			"app.py":      "held = b'x' * (64 << 20)\n\ndef handler(event, context):\n    return 1\n",
		})
		for range 3 {
			doc := p.invoke(t, name, nil).
				wantProblem(t, http.StatusBadGateway, wire.CodeFunctionOutOfMemory, "32 MiB", "raise memory")
			if doc.Invocation == "" {
				t.Errorf("got %+v", doc)
			}
		}
		p.invoke(t, p.probe(t), map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
	})
}

// TestFailedStarts: functions that cannot be loaded say so at their first call.
func TestFailedStarts(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, runtime, file, source string
		code                        wire.Code
		kind                        string
		text                        string // in the detail
		logs                        string
	}{
		{"py-import", "python", "app.py", "print('loading')\nimport nothing_of_that_name\n", wire.CodeFunctionError, "Runtime.ImportModuleError", "nothing_of_that_name", "loading"},
		{"py-syntax", "python", "app.py", "def handler(:\n", wire.CodeFunctionError, "Runtime.UserCodeSyntaxError", "app.py", ""},
		{"py-handler", "python", "app.py", "def other(event, context): pass\n", wire.CodeFunctionError, "Runtime.HandlerNotFound", "handler", ""},
		{"py-raise", "python", "app.py", "raise RuntimeError('no database')\n", wire.CodeFunctionError, "RuntimeError", "no database", ""},
		{"py-exit", "python", "app.py", "import os\nprint('leaving', flush=True)\nos._exit(9)\n", wire.CodeFunctionExited, "", "status 9", "leaving"},
		{"js-import", "node", "app.mjs", "import 'nothing-of-that-name';\n", wire.CodeFunctionError, "Runtime.ImportModuleError", "nothing-of-that-name", ""},
		{"js-handler", "node", "app.mjs", "export const other = 1;\n", wire.CodeFunctionError, "Runtime.HandlerNotFound", "handler", ""},
		{"sh-exit", "provided", "bootstrap", "#!/bin/sh\necho no reason\nexit 5\n", wire.CodeFunctionExited, "", "status 5", "no reason"},
		{"sh-broken", "provided", "bootstrap", "#!/no/such/interpreter\n", wire.CodeFunctionExited, "", "status 127", ""},
	}
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				manifest := "name: " + c.name + "\nruntime: " + c.runtime + "\n"
				if c.runtime != "provided" {
					manifest += "handler: app.handler\n"
				}
				a := p.invoke(t, p.aside(t, files{"dayfly.yaml": manifest, c.file: c.source}), nil)
				doc := a.wantProblem(t, http.StatusBadGateway, c.code, c.text)
				if doc.ErrorType != c.kind || !strings.Contains(doc.Logs, c.logs) || doc.Invocation == "" {
					t.Errorf("got %+v", doc)
				}
			})
		}
	})
}

func TestResultThatIsNoJSON(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shell(t)
		doc := p.invoke(t, name, "no json").wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "no JSON", "this is no JSON")
		if doc.ErrorType != "Runtime.InvalidResponse" || !strings.Contains(doc.Logs, "shell got 9 bytes") {
			t.Errorf("got %+v", doc)
		}
		p.invoke(t, name, "exit").wantProblem(t, http.StatusBadGateway, wire.CodeFunctionExited, "status 7")
		p.invoke(t, name, 1).wantJSON(t, "1")
	})
}
