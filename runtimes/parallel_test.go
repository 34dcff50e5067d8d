package runtimes

import (
	"fmt"
	"strings"
	"testing"
)

const pythonParallel = `
import logging, sys, threading
meeting = threading.Barrier(3, timeout=50)
print("loaded")

def handler(event, context):
    do = event["do"]
    if do == "meet":
        print("begin", event["n"])
        print("two\nlines ", end="")
        meeting.wait()
        print("and", "more")
        sys.stderr.write("error stream\n")
        logging.warning("noted")
        sys.stdout.write("no end")
        return event["n"]
    if do == "fail": raise ValueError("no good")
    if do == "exit": sys.exit(7)
`

const nodeParallel = `
let waiting = [];
console.log('loaded');

export const handler = async (event) => {
  switch (event.do) {
  case 'meet':
    console.log('begin', event.n);
    process.stdout.write('two\nlines ');
    await new Promise((resolve) => {
      waiting.push(resolve);
      if (waiting.length === 3) for (const wake of waiting.splice(0)) wake();
    });
    await new Promise((resolve) => setTimeout(resolve, 1));
    console.log('and', 'more');
    process.stderr.write(Buffer.from('error stream\n'));
    console.warn('noted');
    process.stdout.write('no end');
    return event.n;
  case 'fail': throw new TypeError('no good');
  case 'throw': setTimeout(() => { throw new RangeError('thrown later'); }, 1); return new Promise(() => {});
  case 'exit': process.exit(7);
  }
};
`

// parallels are the runtimes with a shim and a function that takes three events at once.
var parallels = []struct{ name, file, source, failType, failLine string }{
	{"python", "app.py", pythonParallel, "ValueError", "ValueError: no good\n"},
	{"node", "app.mjs", nodeParallel, "TypeError", "[ERROR] TypeError: no good\n"},
}

// printed returns what is marked as an invocation's in a log; of "" what is not marked.
func printed(log, id string) string {
	var text strings.Builder
	for line := range strings.Lines(log) {
		of := ""
		if marked, ok := strings.CutPrefix(line, "\x1e"); ok {
			of, line, _ = strings.Cut(marked, "\x1f")
		}
		if of == id {
			text.WriteString(line)
		}
	}
	return text.String()
}

// TestEventsInParallel: three events are in the handler at once, or nobody would get
// on; each line says whose it is.
func TestEventsInParallel(t *testing.T) {
	t.Parallel()
	for _, lang := range parallels {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := startMany(t, lang.name, "app.handler", 3, map[string]string{lang.file: lang.source})
			for round := range 3 {
				for n := range 3 {
					in.send(fmt.Sprintf(`{"do":"meet","n":%d}`, n))
				}
				for range 3 {
					a := in.answered()
					if a.kind != "response" {
						t.Fatalf("round %d: %s %s", round, a.kind, a.body)
					}
					in.waitLog("\x1e" + a.id + "\x1fno end\n") // is the last
					got := printed(in.logged(), a.id)
					for _, want := range []string{"begin " + string(a.body) + "\n", "two\nlines and more\n", "error stream\n", "noted\n", "no end\n"} {
						if !strings.Contains(got, want) {
							t.Errorf("%s printed %q, which lacks %q", a.body, got, want)
						}
					}
				}
			}
			if got := printed(in.logged(), ""); !strings.HasPrefix(got, "loaded\n") || strings.Count(got, "\n") != 1 {
				t.Errorf("of no invocation: %q", got)
			}
		})
	}
}

// TestOneOfSeveralFails: its error is its own, and the loop goes on.
func TestOneOfSeveralFails(t *testing.T) {
	t.Parallel()
	for _, lang := range parallels {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := startMany(t, lang.name, "app.handler", 3, map[string]string{lang.file: lang.source})
			for range 5 {
				a := in.call(event{body: []byte(`{"do":"fail"}`)})
				if r := a.report(t); r.ErrorType != lang.failType || r.ErrorMessage != "no good" {
					t.Errorf("got %+v", r)
				}
				in.waitLog("\x1e" + a.id + "\x1f" + lang.failLine)
			}
			in.send(`{"do":"exit"}`)
			if code := in.exit(); code != 7 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestNodeUncaughtInParallel: what nobody caught is told to the invocation in whose
// course it was thrown.
func TestNodeUncaughtInParallel(t *testing.T) {
	t.Parallel()
	in := startMany(t, "node", "app.handler", 3, map[string]string{"app.mjs": nodeParallel})
	in.send(`{"do":"meet","n":1}`)
	a := in.call(event{body: []byte(`{"do":"throw"}`)})
	if r := a.report(t); r.ErrorType != "RangeError" || r.ErrorMessage != "thrown later" {
		t.Errorf("got %+v", r)
	}
	if code := in.exit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}
