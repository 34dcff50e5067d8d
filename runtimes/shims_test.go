package runtimes

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const pythonApp = `
import asyncio, decimal, logging, os, sys, time
logging.getLogger().setLevel(logging.INFO)
print("loaded", os.environ["FROM_ASSIGNMENT"], time.tzname[0], os.getcwd())

def fail(depth):
    if depth: fail(depth - 1)
    raise ValueError("b\u00f6se")

def handler(event, context):
    do = event.get("do", "echo") if isinstance(event, dict) else "echo"
    if do == "echo": return event
    if do == "fail": fail(2)
    if do == "bytes": return {"data": b"x"}
    if do == "nan": return float("nan")
    if do == "large": return "x" * (11 << 20)
    if do == "decimal": return decimal.Decimal("1.5")
    if do == "cancelled": raise asyncio.CancelledError("c")
    if do == "print":
        print("first"); print("second", end=""); sys.stderr.write("third\n"); logging.info("noted")
        return None
    if do == "exit": print("leaving"); sys.exit(7)
    if do == "put":
        context.put("a/b.txt", "gr\u00fc\u00df"); context.put("c.bin", b"\0\1")
        bad = []
        for name in ("../x", "/etc/x", "a/../../x", ""):
            try: context.put(name, "x")
            except ValueError as e: bad.append(str(e))
        return bad
    if do == "context":
        left = context.get_remaining_time_in_millis()
        return [context.aws_request_id, context.function_name, context.function_version, context.invoked_function_arn,
                context.memory_limit_in_mb, context.log_group_name, context.log_stream_name, 0 < left <= 30000,
                context.client_context.custom, context.identity.cognito_identity_id, context.output_dir]

def main(): pass
`

const nodeApp = `
console.log('loaded', process.env.FROM_ASSIGNMENT, process.cwd());
const fail = (depth) => { if (depth > 0) fail(depth - 1); throw new TypeError('böse'); };
export const handler = async (event, context) => {
  switch (event?.do) {
  case 'fail': return fail(2);
  case 'bytes': return { n: 1n };
  case 'large': return 'x'.repeat(11 << 20);
  case 'undefined': return undefined;
  case 'string': throw 'just text';
  case 'never': return new Promise(() => {});
  case 'print': console.log('first'); process.stdout.write('second'); console.error('third'); return null;
  case 'exit': console.log('x'.repeat(300000)); console.log('leaving'); process.exit(7);
  case 'reject': Promise.reject(new RangeError('nobody caught me')); return new Promise((r) => setTimeout(r, 30000));
  case 'throw': setTimeout(() => { throw new RangeError('thrown later'); }, 1); return new Promise((r) => setTimeout(r, 30000));
  case 'put': {
    context.put('a/b.txt', 'grüß'); context.put('c.bin', new Uint8Array([0, 1]));
    const bad = [];
    for (const name of ['../x', '/etc/x', 'a/../../x', '']) try { context.put(name, 'x'); } catch (e) { bad.push(e.message); }
    return bad;
  }
  case 'context': {
    const left = context.getRemainingTimeInMillis();
    return [context.awsRequestId, context.functionName, context.functionVersion, context.invokedFunctionArn,
      context.memoryLimitInMB, context.logGroupName, context.logStreamName, 0 < left && left <= 30000,
      context.clientContext.custom, context.identity ?? null, context.outputDir];
  }
  default: return event;
  }
};
export const main = () => {};
`

// languages are the runtimes with a shim, and how their test function is called.
var languages = []struct{ name, file, source, failType, frame, mistake string }{
	{"python", "app.py", pythonApp, "ValueError", "/var/task/app.py", "def handler(:\n"},
	{"node", "app.mjs", nodeApp, "TypeError", "/var/task/app.mjs", "export const handler = (;\n"},
}

func TestShimAnswers(t *testing.T) {
	t.Parallel()
	for _, lang := range languages {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := start(t, lang.name, "app.handler", map[string]string{lang.file: lang.source})
			for _, body := range []string{`{"a":1}`, `[1,2.5,null,true]`, `"grüß 你好 🎉"`, `7`, `null`} {
				if got := strings.ReplaceAll(strings.ReplaceAll(in.result(body), ": ", ":"), ", ", ","); got != body {
					t.Errorf("echo of %s is %s", body, got)
				}
			}
			if got := in.result(""); got != "{}" {
				t.Errorf("an empty event is %s, want {}", got)
			}
			large := `"` + strings.Repeat("0123456789", 500<<10) + `"`
			for _, chunked := range []bool{false, true} {
				if a := in.call(event{body: []byte(large), chunked: chunked}); string(a.body) != large {
					t.Errorf("chunked=%v: echo of %d bytes has %d", chunked, len(large), len(a.body))
				}
			}
			if got := in.result(`{"do":"large"}`); len(got) != 11<<20+2 {
				t.Errorf("a large result has %d bytes", len(got))
			}
			context := in.result(`{"do":"context"}`)
			for _, want := range []string{`"demo"`, `"3"`, `"arn:dayfly:lambda:local:default:function:demo:3"`, `"256"`,
				`"/dayfly/default/demo"`, `"i-1"`, `true`, `"k"`, `"/mnt/output"`} {
				if !strings.Contains(context, want) {
					t.Errorf("context %s lacks %s", context, want)
				}
			}
			in.waitLog("loaded grüß")
			in.waitLog("/var/task")
		})
	}
}

func TestShimReportsErrors(t *testing.T) {
	t.Parallel()
	for _, lang := range languages {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := start(t, lang.name, "app.handler", map[string]string{lang.file: lang.source})
			r := in.call(event{body: []byte(`{"do":"fail"}`)}).report(t)
			if r.ErrorType != lang.failType || r.ErrorMessage != "böse" || len(r.StackTrace) != 4 {
				t.Errorf("got %+v", r)
			}
			for _, frame := range r.StackTrace {
				if !strings.Contains(frame, lang.frame) {
					t.Errorf("frame %q is not the function's", frame)
				}
			}
			in.waitLog(lang.failType + ": böse")
			if strings.Contains(in.logged(), "bootstrap.") {
				t.Error("the log shows frames of the shim")
			}
			for _, c := range []struct{ event, errorType, message string }{
				{`{"do":"bytes"}`, "Runtime.MarshalError", map[string]string{"python": "bytes", "node": "BigInt"}[lang.name]},
				{`{not json`, "Runtime.UnmarshalError", "the event is not JSON"},
				{"\xff\xfe", "Runtime.UnmarshalError", "the event is not JSON"},
			} {
				r := in.call(event{body: []byte(c.event)}).report(t)
				if r.ErrorType != c.errorType || !strings.Contains(r.ErrorMessage, c.message) {
					t.Errorf("%q: got %+v", c.event, r)
				}
			}
			if got := in.result(`5`); got != "5" {
				t.Errorf("after errors it answers %s", got)
			}
		})
	}
}

func TestShimPrintsBeforeItAnswers(t *testing.T) {
	t.Parallel()
	for _, lang := range languages {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := start(t, lang.name, "app.handler", map[string]string{lang.file: lang.source})
			if got := in.result(`{"do":"print"}`); got != "null" {
				t.Errorf("got %s", got)
			}
			in.waitLog("first\n")
			in.waitLog("second")
			in.waitLog("third\n")
			if lang.name == "python" {
				in.waitLog("[INFO]\t")
				in.waitLog("\tnoted\n")
			}
		})
	}
}

func TestShimPutsFiles(t *testing.T) {
	t.Parallel()
	for _, lang := range languages {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := start(t, lang.name, "app.handler", map[string]string{lang.file: lang.source})
			if got := in.result(`{"do":"put"}`); strings.Count(got, "leaves the output folder") != 4 {
				t.Errorf("it took a bad name: %s", got)
			}
			for name, want := range map[string]string{"a/b.txt": "grüß", "c.bin": "\x00\x01"} {
				if got, err := os.ReadFile(filepath.Join(in.output, name)); err != nil || !bytes.Equal(got, []byte(want)) {
					t.Errorf("%s holds %q, %v", name, got, err)
				}
			}
		})
	}
}

func TestShimExitsWithTheFunction(t *testing.T) {
	t.Parallel()
	for _, lang := range languages {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := start(t, lang.name, "app.handler", map[string]string{lang.file: lang.source})
			in.send(`{"do":"exit"}`)
			if code := in.exit(); code != 7 {
				t.Errorf("exit code %d", code)
			}
			in.waitLog("leaving\n")
		})
	}
}

func TestShimReportsFailedStarts(t *testing.T) {
	t.Parallel()
	for _, lang := range languages {
		end := filepath.Ext(lang.file)
		missing := map[string]string{"python": "import nowhere_at_all\n", "node": "import 'nowhere_at_all';\n"}[lang.name]
		raises := map[string]string{"python": "x = 1 / 0\n", "node": "throw new RangeError('too early');\n"}[lang.name]
		for _, c := range []struct{ name, handler, source, errorType, message string }{
			{"missing handler", "app.nope", lang.source, "Runtime.HandlerNotFound", `handler "nope" not found in app` + end},
			{"what there is", "app.nope", lang.source, "Runtime.HandlerNotFound", `handler, main`},
			{"missing file", "other.handler", lang.source, "Runtime.ImportModuleError", "it has: app" + end},
			{"no dot", "app", lang.source, "Runtime.MalformedHandlerName", "handler"},
			{"syntax error", "app.handler", "\n\n" + lang.mistake, "Runtime.UserCodeSyntaxError", map[string]string{"python": "app.py, line 3", "node": "app.mjs:3"}[lang.name]},
			{"missing import", "app.handler", missing, "Runtime.ImportModuleError", "nowhere_at_all"},
			{"raises", "app.handler", raises, map[string]string{"python": "ZeroDivisionError", "node": "RangeError"}[lang.name], ""},
		} {
			t.Run(lang.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				in := start(t, lang.name, c.handler, map[string]string{lang.file: c.source})
				a := in.answered()
				r := a.report(t)
				if a.kind != "init" || r.ErrorType != c.errorType || !strings.Contains(r.ErrorMessage, c.message) {
					t.Errorf("got %s %+v", a.kind, r)
				}
				if code := in.exit(); code != 1 {
					t.Errorf("exit code %d", code)
				}
				in.waitLog(c.errorType)
			})
		}
	}
}

func TestPythonValues(t *testing.T) {
	t.Parallel()
	in := start(t, "python", "pkg/random.handler", map[string]string{"pkg/random.py": pythonApp})
	if got := in.result(`{"do":"decimal"}`); got != "1.5" {
		t.Errorf("decimal: %s", got)
	}
	if r := in.call(event{body: []byte(`{"do":"nan"}`)}).report(t); r.ErrorType != "Runtime.MarshalError" {
		t.Errorf("nan: %+v", r)
	}
	if r := in.call(event{body: []byte(`{"do":"cancelled"}`)}).report(t); r.ErrorType != "CancelledError" {
		t.Errorf("cancelled: %+v", r)
	}
	in.waitLog("JST") // the assignment's time zone counts
}

func TestPythonOwnModulesShadowTheLibrary(t *testing.T) {
	t.Parallel()
	in := start(t, "python", "app.handler", map[string]string{
		"csv.py": "MINE = 'mine'\n", "json/__init__.py": "", "json/decoder.py": "MINE = 'too'\n", "logging/data.txt": "",
		"app.py": "import csv, json.decoder\nimport logging\nlogging.warning('as ever')\ndef handler(event, context): return csv.MINE + json.decoder.MINE\n",
	})
	if got := in.result(`{}`); got != `"minetoo"` {
		t.Errorf("got %s", got)
	}
	in.waitLog("[WARNING]\t")
}

func TestNodeUncaught(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ do, errorType, message string }{
		{"reject", "Runtime.UnhandledPromiseRejection", "nobody caught me"},
		{"throw", "RangeError", "thrown later"},
	} {
		t.Run(c.do, func(t *testing.T) {
			t.Parallel()
			in := start(t, "node", "app.handler", map[string]string{"app.mjs": nodeApp})
			r := in.call(event{body: []byte(`{"do":"` + c.do + `"}`)}).report(t)
			if r.ErrorType != c.errorType || r.ErrorMessage != c.message {
				t.Errorf("got %+v", r)
			}
			if code := in.exit(); code != 1 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestNodeValues(t *testing.T) {
	t.Parallel()
	in := start(t, "node", "app.handler", map[string]string{"app.mjs": nodeApp})
	if got := in.result(`{"do":"undefined"}`); got != "null" {
		t.Errorf("undefined: %s", got)
	}
	if r := in.call(event{body: []byte(`{"do":"string"}`)}).report(t); r.ErrorType != "string" || r.ErrorMessage != "just text" {
		t.Errorf("string: %+v", r)
	}
	if r := in.call(event{body: []byte(`{"do":"never"}`)}).report(t); r.ErrorType != "Runtime.NeverSettled" {
		t.Errorf("never: %+v", r)
	}
	if got := in.result(`1`); got != "1" {
		t.Errorf("afterwards: %s", got)
	}
}

func TestNodeHandlerStyles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, file, source, packageJSON, want string }{
		{"commonjs async", "app.js", `exports.handler = async (e) => e.a`, "", "1"},
		{"cjs", "app.cjs", `module.exports = { handler: async (e) => e.a }`, "", "1"},
		{"esm by package.json", "app.js", `export const handler = async (e) => e.a`, `{"type":"module"}`, "1"},
		{"esm default object", "app.mjs", `export default { handler: (e) => e.a }`, "", "1"},
		{"sync", "app.js", `exports.handler = (e) => e.a`, "", "1"},
		{"callback", "app.js", `exports.handler = (e, c, cb) => setTimeout(() => cb(null, e.a), 1)`, "", "1"},
		{"callback at once", "app.js", `exports.handler = (e, c, cb) => { c.callbackWaitsForEmptyEventLoop = false; setTimeout(() => {}, 100000); cb(null, e.a); }`, "", "1"},
		{"callback that waits", "app.js", `exports.handler = (e, c, cb) => { const r = { a: 0 }; cb(null, r); setTimeout(() => { r.a = 1; }, 5); }`, "", `{"a":1}`},
		{"callback never", "app.js", `exports.handler = (e, c, cb) => {}`, "", "null"},
		{"callback error", "app.js", `exports.handler = (e, c, cb) => cb(new RangeError('no'))`, "", "RangeError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{c.file: c.source}
			if c.packageJSON != "" {
				files["package.json"] = c.packageJSON
			}
			in := start(t, "node", "app.handler", files)
			for range 2 {
				a := in.call(event{body: []byte(`{"a":1}`)})
				if got := string(a.body); got != c.want && (a.kind != "error" || a.errorType != c.want) {
					t.Errorf("got %s %s", a.kind, got)
				}
			}
		})
	}
}
