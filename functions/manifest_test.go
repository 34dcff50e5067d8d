package functions

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func TestParseManifestDefaults(t *testing.T) {
	got, err := ParseManifest([]byte("name: thumbnail\nruntime: python\nhandler: app.handler\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{Name: "thumbnail", Spec: Spec{
		Runtime: "python", Handler: "app.handler", MemoryBytes: 128 << 20, CPUMillis: 100, TimeoutMillis: 30_000,
		Concurrency: 1, MaxInstances: 50, MinInstances: 0, Isolation: "shared", Network: "egress",
		EventSpec: EventSpec{Retry: RetrySpec{Attempts: 3, MaxAgeMillis: 6 * 3600_000, Backoff: "exponential", DelayMillis: 1000}, DeadLetter: true},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Spec.Timeout() != 30*time.Second {
		t.Errorf("timeout %v", got.Spec.Timeout())
	}
	if needs, want := got.Spec.Needs(), (wire.Resources{MemoryBytes: 128 << 20, CPUMillis: 100, Instances: 1}); needs != want {
		t.Errorf("needs %v, want %v", needs, want)
	}
}

func TestParseManifestEverything(t *testing.T) {
	const text = "\ufeff---\r\n" + `# a comment
name: 'thumbnail'
runtime: node
handler: src/lib-1/app.handler
memory: 1Gi
cpu: 0.25
timeout: 1m30s
concurrency: 1
maxInstances: 7
minInstances: 2
isolation: shared
env:
  SIZE: "128"
  _TEXT: |
    two
    lines
  EMPTY: ""
nodeSelector: {disk: ssd, zone: "1"}
network: none
output: {store: true}
triggers:
  - http: {}
retry: {attempts: 5, maxAge: 1d12h, backoff: constant, delay: 250ms}
deadLetter: false
onSuccess: {function: report.team-a:2}
onFailure: {subject: orders.failed}
`
	got, err := ParseManifest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{Name: "thumbnail", Spec: Spec{
		Runtime: "node", Handler: "src/lib-1/app.handler", MemoryBytes: 1 << 30, CPUMillis: 250, TimeoutMillis: 90_000,
		Concurrency: 1, MaxInstances: 7, MinInstances: 2, Isolation: "shared", Network: "none", Output: OutputSpec{Store: true},
		EventSpec: EventSpec{
			Retry:     RetrySpec{Attempts: 5, MaxAgeMillis: 36 * 3600_000, Backoff: "constant", DelayMillis: 250},
			OnSuccess: &Destination{Function: "report.team-a:2"}, OnFailure: &Destination{Subject: "orders.failed"},
		},
		Env:          map[string]string{"SIZE": "128", "_TEXT": "two\nlines\n", "EMPTY": ""},
		NodeSelector: map[string]string{"disk": "ssd", "zone": "1"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// valid is a manifest to which the tests below add one line.
const valid = "name: a\nruntime: python\nhandler: app.handler\n"

func TestParseManifestAccepts(t *testing.T) {
	for _, test := range []struct {
		line string
		want func(Spec) any
		is   any
	}{
		{"memory: 32Mi", func(s Spec) any { return s.MemoryBytes }, int64(32 << 20)},
		{"memory: 10Gi", func(s Spec) any { return s.MemoryBytes }, int64(10 << 30)},
		{"memory: 33554432", func(s Spec) any { return s.MemoryBytes }, int64(32 << 20)},
		{`memory: "65536Ki"`, func(s Spec) any { return s.MemoryBytes }, int64(64 << 20)},
		{"cpu: 10m", func(s Spec) any { return s.CPUMillis }, int64(10)},
		{"cpu: 250m", func(s Spec) any { return s.CPUMillis }, int64(250)},
		{"cpu: 0.01", func(s Spec) any { return s.CPUMillis }, int64(10)},
		{"cpu: 1.5", func(s Spec) any { return s.CPUMillis }, int64(1500)},
		{"cpu: 1.005", func(s Spec) any { return s.CPUMillis }, int64(1005)},
		{"cpu: 16", func(s Spec) any { return s.CPUMillis }, int64(16_000)},
		{"timeout: 1ms", func(s Spec) any { return s.TimeoutMillis }, int64(1)},
		{"timeout: 15m", func(s Spec) any { return s.TimeoutMillis }, int64(900_000)},
		{"timeout: 1m2s3ms", func(s Spec) any { return s.TimeoutMillis }, int64(62_003)},
		{"maxInstances: 1000", func(s Spec) any { return s.MaxInstances }, 1000},
		{"network: open", func(s Spec) any { return s.Network }, "open"},
		{"nodeSelector: {}", func(s Spec) any { return len(s.NodeSelector) }, 0},
		{"nodeSelector: {arch: arm64}", func(s Spec) any { return s.NodeSelector["arch"] }, "arm64"},
		{"env: {}", func(s Spec) any { return len(s.Env) }, 0},
		{"secrets: [A, B]", func(s Spec) any { return s.Secrets[0] }, SecretUse{Name: "A", As: "both"}},
		{"secrets:\n  - name: A\n    as: file", func(s Spec) any { return s.Secrets[0] }, SecretUse{Name: "A", As: "file"}},
		{"secrets: []", func(s Spec) any { return len(s.Secrets) }, 0},
		{"output: {}", func(s Spec) any { return s.Output.Store }, false},
		{"output:\n  store: false", func(s Spec) any { return s.Output.Store }, false},
		{"triggers: [{http: {}}]", func(s Spec) any { return s.Runtime }, "python"},
	} {
		manifest, err := ParseManifest([]byte(valid + test.line))
		if err != nil {
			t.Errorf("%s: %v", test.line, err)
		} else if got := test.want(manifest.Spec); got != test.is {
			t.Errorf("%s: got %v, want %v", test.line, got, test.is)
		}
	}
}

func TestParseManifestHandlers(t *testing.T) {
	for _, test := range []struct{ runtime, handler, want string }{
		{"go", "", "bootstrap"},
		{"provided", "", "bootstrap"},
		{"provided", "function.sh", "function.sh"},
		{"image", "", ""}, {"image", "app.handler", "app.handler"}, {"image", `"a b"`, "error"},
		{"python", "a.b", "a.b"},
		{"python", "pkg/mod.main", "pkg/mod.main"},
		{"node", "index.$handler", "index.$handler"},
		{"node", "", "error"}, {"python", "app", "error"}, {"python", "a.b.c", "error"}, {"python", "/app.handler", "error"},
		{"python", "../app.handler", "error"}, {"node", "app.", "error"}, {"node", "app.1", "error"}, {"python", "a//b.c", "error"},
		{"python", `""`, "error"}, {"provided", `"a b"`, "error"}, {"provided", `""`, "error"}, {"go", "é", "error"},
		{"python", "a." + strings.Repeat("b", 127), "error"},
	} {
		text := "name: a\nruntime: " + test.runtime + "\n"
		if test.handler != "" {
			text += "handler: " + test.handler + "\n"
		}
		manifest, err := ParseManifest([]byte(text))
		switch {
		case test.want == "error" && !wire.HasCode(err, wire.CodeInvalid):
			t.Errorf("%s %s: got %v, %v", test.runtime, test.handler, manifest.Spec.Handler, err)
		case test.want != "error" && (err != nil || manifest.Spec.Handler != test.want):
			t.Errorf("%s %s: got %q, %v", test.runtime, test.handler, manifest.Spec.Handler, err)
		}
	}
}

// The messages are part of the interface: they say what, where and what to do.
func TestParseManifestRefuses(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"handlr: x", `dayfly.yaml:4: unknown key "handlr"; did you mean "handler"?`},
		{"hanlder: x", `dayfly.yaml:4: unknown key "hanlder"; did you mean "handler"?`},
		{"mem: 1Gi", `dayfly.yaml:4: unknown key "mem"; did you mean "memory"?`},
		{"max_instances: 1", `dayfly.yaml:4: unknown key "max_instances"; did you mean "maxInstances"?`},
		{"timeoutSeconds: 1", `dayfly.yaml:4: unknown key "timeoutSeconds"; did you mean "timeout"?`},
		{"colour: red", `dayfly.yaml:4: unknown key "colour"; use name, runtime, handler, image, memory, cpu, timeout, concurrency, maxInstances, minInstances, isolation, env, nodeSelector, secrets, network, output, triggers, retry, deadLetter, onSuccess or onFailure`},
		{"output:\n  stor: true", `dayfly.yaml:5: unknown key "stor" in output; did you mean "store"?`},
		{"output: true", `dayfly.yaml:4: output: true or false stands where keys and values are needed`},
		{"output: {store: yes}", `dayfly.yaml:4: output.store: text stands where true or false is needed`},
		{"1: x", `dayfly.yaml:4: key 1 is not text; put it in quotes`},
		{"name: b", `dayfly.yaml:4: key "name" stands twice, first on line 1; keep one`},
		{"env: {A: x, A: y}", `dayfly.yaml:4: key "A" in env stands twice, first on line 4; keep one`},
		{"memory: 16Mi", `dayfly.yaml:4: memory: "16Mi" is out of bounds; 32Mi to 10Gi are allowed`},
		{"memory: 128", `dayfly.yaml:4: memory: "128" is out of bounds; 32Mi to 10Gi are allowed`},
		{"memory:\n  99999999999999999999Gi", `dayfly.yaml:5: memory: "99999999999999999999Gi" is out of bounds; 32Mi to 10Gi are allowed`},
		{"memory: 9000000000Gi", `dayfly.yaml:4: memory: "9000000000Gi" is out of bounds; 32Mi to 10Gi are allowed`},
		{"memory: 256MB", `dayfly.yaml:4: memory: "256MB" is not a size; write it as 256Mi, 1Gi or in plain bytes (32Mi to 10Gi)`},
		{"memory: 0x10000000", `dayfly.yaml:4: memory: "0x10000000" is not a size; write it as 256Mi, 1Gi or in plain bytes (32Mi to 10Gi)`},
		{"memory: -5", `dayfly.yaml:4: memory: "-5" is not a size; write it as 256Mi, 1Gi or in plain bytes (32Mi to 10Gi)`},
		{"memory: [1]", `dayfly.yaml:4: memory: a list stands where a quantity is needed`},
		{"memory:", `dayfly.yaml:4: memory: nothing stands where a quantity is needed`},
		{"cpu: 5m", `dayfly.yaml:4: cpu: "5m" is out of bounds; 10m to 16 are allowed`},
		{"cpu: 16.001", `dayfly.yaml:4: cpu: "16.001" is out of bounds; 10m to 16 are allowed`},
		{"cpu: 99999999999999999999", `dayfly.yaml:4: cpu: "99999999999999999999" is out of bounds; 10m to 16 are allowed`},
		{"cpu: 0.2505", `dayfly.yaml:4: cpu: "0.2505" is not a number of cores; write it as 0.25 (at most three decimals) or 250m (10m to 16)`},
		{"cpu: .inf", `dayfly.yaml:4: cpu: a number stands where a quantity is needed`},
		{"timeout: 30", `dayfly.yaml:4: timeout: "30" has no unit; write 30s or 30ms (1ms to 15m)`},
		{"timeout: 1h", `dayfly.yaml:4: timeout: "1h" is not a duration; write whole numbers with ms, s or m, as 500ms, 30s or 1m30s (1ms to 15m)`},
		{"timeout: 0s", `dayfly.yaml:4: timeout: "0s" is out of bounds; 1ms to 15m are allowed`},
		{"timeout: 99999999999999999999m", `dayfly.yaml:4: timeout: "99999999999999999999m" is out of bounds; 1ms to 15m are allowed`},
		{"maxInstances: 0", `dayfly.yaml:4: maxInstances: "0" is out of bounds; 1 to 1000 are allowed`},
		{"maxInstances: many", `dayfly.yaml:4: maxInstances: "many" is not a whole number (1 to 1000)`},
		{"concurrency: 0", `dayfly.yaml:4: concurrency: "0" is out of bounds; 1 to 100 are allowed`},
		{"concurrency: 101", `dayfly.yaml:4: concurrency: "101" is out of bounds; 1 to 100 are allowed`},
		{"minInstances: -1", `dayfly.yaml:4: minInstances: "-1" is not a whole number (0 to 1000)`},
		{"minInstances: 51", `dayfly.yaml:4: minInstances: 51 is more than maxInstances, which is 50; raise that one`},
		{"isolation: none", `dayfly.yaml:4: isolation: "none" is not a kind of isolation; use shared or invocation`},
		{"isolation: invocation\nminInstances: 1", `dayfly.yaml:5: minInstances: nothing can be kept running with isolation: invocation, where every event has an instance of its own; remove one of the two`},
		{"isolation: invocation\nconcurrency: 2", `dayfly.yaml:5: concurrency: more than 1 contradicts isolation: invocation; remove one of the two`},
		{"output: {store: true}\nconcurrency: 2", `dayfly.yaml:5: concurrency: more than 1 does not go with output.store: the files in the output folder would belong to no single invocation; use 1`},
		{"secrets: A", `dayfly.yaml:4: secrets: text stands where a list is needed`},
		{"secrets: [1]", `dayfly.yaml:4: secrets: 1 is a number, text is needed; write "1"`},
		{"secrets: [[A]]", `dayfly.yaml:4: secrets: a list stands where text is needed`},
		{"secrets: [A-B]", `dayfly.yaml:4: secrets: "A-B" is not a variable's name; use letters, digits and _, not a digit first`},
		{"secrets: [DAYFLY_X]", `dayfly.yaml:4: secrets: "DAYFLY_X" is set by Dayfly; use another name`},
		{"secrets: [A, {name: A, as: env}]", `dayfly.yaml:4: secrets: "A" stands twice; keep one`},
		{"secrets: [{as: env}]", `dayfly.yaml:4: secrets: a secret needs a name, as in "{name: API_TOKEN, as: file}"`},
		{"secrets: [{name: A, as: both?}]", `dayfly.yaml:4: secrets.as: "both?" is not a place for a secret; use both, env or file`},
		{"secrets: [{name: A, az: env}]", `dayfly.yaml:4: unknown key "az" in secrets; did you mean "as"?`},
		{"env: {A: x}\nsecrets:\n  - A", `dayfly.yaml:5: secrets: "A" stands in env as well; remove it there`},
		{"secret: [A]", `dayfly.yaml:4: unknown key "secret"; did you mean "secrets"?`},
		{"retry: 3", `dayfly.yaml:4: retry: a number stands where keys and values are needed`},
		{"retry: {attempts: 0}", `dayfly.yaml:4: retry.attempts: "0" is out of bounds; 1 to 20 are allowed`},
		{"retry: {attempts: 21}", `dayfly.yaml:4: retry.attempts: "21" is out of bounds; 1 to 20 are allowed`},
		{"retry: {maxAge: 15d}", `dayfly.yaml:4: retry.maxAge: "15d" is out of bounds; 1s to 14d are allowed`},
		{"retry: {maxAge: 6 hours}", `dayfly.yaml:4: retry.maxAge: "6 hours" is not a duration; write whole numbers with ms, s, m, h or d, as 30s, 6h or 1d12h (1s to 14d)`},
		{"retry: {maxAge: 99999999999999999999d}", `dayfly.yaml:4: retry.maxAge: "99999999999999999999d" is out of bounds; 1s to 14d are allowed`},
		{"retry: {backoff: linear}", `dayfly.yaml:4: retry.backoff: "linear" is not a choice; use exponential or constant`},
		{"retry: {delay: 6m}", `dayfly.yaml:4: retry.delay: "6m" is out of bounds; 10ms to 5m are allowed`},
		{"retry: {tries: 3}", `dayfly.yaml:4: unknown key "tries" in retry; use attempts, maxAge, backoff or delay`},
		{"deadLetter: 1", `dayfly.yaml:4: deadLetter: a number stands where true or false is needed`},
		{"onSuccess: {}", `dayfly.yaml:4: onSuccess: one destination is needed, as in "function: report" or "subject: orders.failed"; this has 0 keys`},
		{"onFailure: {function: a, subject: b}", `dayfly.yaml:4: onFailure: one destination is needed, as in "function: report" or "subject: orders.failed"; this has 2 keys`},
		{"onFailure: {function: A b}", `dayfly.yaml:4: onFailure.function: malformed function reference "A b": name "A b" is not valid: use lower-case letters, digits and inner hyphens, at most 63`},
		{"onFailure: {subject: a.*}", `dayfly.yaml:4: onFailure.subject: "a.*" is not a subject to publish on; write words with dots between them, as orders.failed, without spaces, * and >`},
		{"onSuccess: {subject: dayfly.event.x}", `dayfly.yaml:4: onSuccess.subject: subject "dayfly.event.x" belongs to the system; publish on one of your own`},
		{"image: x.tar", `dayfly.yaml:4: image: only the runtime image runs an image; write "runtime: image", or remove this key`},
		{"network: public", `dayfly.yaml:4: network: "public" is not a kind of network; use none, egress or open`},
		{"env: {? A: x}", `dayfly.yaml:4: YAML tags, directives and complex keys (!, %, ?) are not supported; remove this one, or quote it`},
		{"env: [A]", `dayfly.yaml:4: env: a list stands where keys and values are needed`},
		{"env:\n  SIZE: 128", `dayfly.yaml:5: env.SIZE: 128 is a number, text is needed; write "128"`},
		{"env:\n  ON: true", `dayfly.yaml:5: env.ON: true is true or false, text is needed; write "true"`},
		{"env:\n  A:", `dayfly.yaml:5: env.A: nothing stands where text is needed`},
		{"env: {A: \"\\0\"}", `dayfly.yaml:4: env.A: a variable cannot hold a NUL byte; remove it`},
		{"nodeSelector: [ssd]", `dayfly.yaml:4: nodeSelector: a list stands where keys and values are needed`},
		{"nodeSelector:\n  disk: 1", `dayfly.yaml:5: nodeSelector.disk: 1 is a number, text is needed; write "1"`},
		{"nodeSelector: {a b: x}", `dayfly.yaml:4: nodeSelector: "a b" is not a label's key; use letters, digits and inner -_./, at most 63`},
		{"nodeSelector:\n  zone: a\n  disk: -ssd", `dayfly.yaml:6: nodeSelector.disk: "-ssd" is not a label's value; use letters, digits and inner -_./, at most 63`},
		{"nodeSelector: {a: b, a: c}", `dayfly.yaml:4: key "a" in nodeSelector stands twice, first on line 4; keep one`},
		{"nodeSelector: {" + keys(17) + "}", `dayfly.yaml:4: nodeSelector: 17 labels are too many; at most 16 are allowed`},
		{"nodeselector: {a: b}", `dayfly.yaml:4: unknown key "nodeselector"; did you mean "nodeSelector"?`},
		{"env: {A-B: x}", `dayfly.yaml:4: env: "A-B" is not a variable's name; use letters, digits and _, not a digit first`},
		{"env: {_HANDLER: x}", `dayfly.yaml:4: env: "_HANDLER" is set by Dayfly; use another name`},
		{"env: {DAYFLY_X: x}", `dayfly.yaml:4: env: "DAYFLY_X" is set by Dayfly; use another name`},
		{"env: {AWS_LAMBDA_RUNTIME_API: x}", `dayfly.yaml:4: env: "AWS_LAMBDA_RUNTIME_API" is set by Dayfly; use another name`},
		{"env: {LAMBDA_TASK_ROOT: x}", `dayfly.yaml:4: env: "LAMBDA_TASK_ROOT" is set by Dayfly; use another name`},
		{"env: {A: " + strings.Repeat("x", MaxEnvBytes) + "}", `dayfly.yaml:4: env: the variables take 32769 bytes; at most 32768 are allowed, names and values together`},
		{"triggers: {http: {}}", `dayfly.yaml:4: triggers: a mapping stands where a list is needed`},
		{"triggers:\n  - http", `dayfly.yaml:5: triggers: text stands where keys and values are needed`},
		{"triggers:\n  - http: {}\n  - http: {}", `dayfly.yaml:6: triggers.http: this trigger listens where the one on line 5 does; make one of the two`},
		{"triggers:\n  - http: {path: /}", `dayfly.yaml:5: unknown key "path" in triggers.http; no keys belong there, remove it`},
		{"triggers:\n  - htpp: {}", `dayfly.yaml:5: unknown key "htpp" in triggers; did you mean "http"?`},
		{"triggers:\n  - http: {}\n    cron: {}", `dayfly.yaml:5: triggers: each item is one trigger, as in "- http: {}"; this one has 2 keys`},
	} {
		_, err := ParseManifest([]byte(valid + test.line + "\n"))
		checkMessage(t, test.line, err, test.want)
	}
}

func TestParseManifestRefusesWholeFiles(t *testing.T) {
	const needs = "; it needs at least a name, a runtime and, for python and node, a handler"
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "dayfly.yaml:1: the file is empty" + needs},
		{"comment", "# nothing\n", "dayfly.yaml:1: the file is empty" + needs},
		{"list", "- a\n", "dayfly.yaml:1: the file holds a list where keys and values belong" + needs},
		{"text", "hello", "dayfly.yaml:1: the file holds text where keys and values belong" + needs},
		{"null", "~", "dayfly.yaml:1: the file holds nothing where keys and values belong" + needs},
		{"two documents", valid + "---\n" + valid, "dayfly.yaml:4: a second YAML document begins here; a manifest is one document"},
		{"not UTF-8", "name: a\nruntime: \xff\n", "dayfly.yaml:2: the file is not UTF-8 text; save it as UTF-8"},
		{"NUL", "name: a\n\x00", "dayfly.yaml:2: the file holds a NUL byte; save it as plain text"},
		{"too long", strings.Repeat("#", 65537), "dayfly.yaml:1: the file has 65537 bytes; at most 65536 are allowed"},
		{"syntax", "name: a\nenv: [1, 2\nb: 3", "dayfly.yaml:3: this is not YAML: ',' or ']' must be specified"},
		{"tab", "name: a\nenv:\n\tA: b\n", "dayfly.yaml:3: this is not YAML: found character '\t' that cannot start any token"},
		{"anchor", "a: &a [x]\nb: [*a, *a]\n", "dayfly.yaml:1: anchors, aliases and merge keys (&, *, <<) are not supported; write the value out, or quote it"},
		{"merge", "name: a\n<<: {}\n", "dayfly.yaml:2: anchors, aliases and merge keys (&, *, <<) are not supported; write the value out, or quote it"},
		{"tag", "name: !!str 5\n", "dayfly.yaml:1: YAML tags, directives and complex keys (!, %, ?) are not supported; remove this one, or quote it"},
		{"directive", "%YAML 1.2\n---\nname: a\n", "dayfly.yaml:1: YAML tags, directives and complex keys (!, %, ?) are not supported; remove this one, or quote it"},
		{"deep", strings.Repeat("[", 60000), "dayfly.yaml:1: the file holds more than 2000 keys, values and signs; no manifest needs that"},
		{"missing", "env: {}\n", "dayfly.yaml:1: \"name\" is missing; add one, as in \"name: thumbnail\"\ndayfly.yaml:1: \"runtime\" is missing; use python, node, go, provided or image"},
		{"no image", "name: a\nruntime: image\nimage: a b\n", `dayfly.yaml:3: image: "a b" is neither a file of the bundle nor a reference; use printable ASCII without spaces`},
		{"long image", "name: a\nruntime: image\nimage: " + strings.Repeat("x", 513) + "\n", `dayfly.yaml:3: image: the text has 513 bytes; at most 512 are allowed`},
		{"no handler", "name: a\nruntime: python\n", `dayfly.yaml:2: "handler" is missing; python needs module.function, as in "handler: app.handler"`},
		{"handler type", "name: a\nruntime: python\nhandler: 1\n", `dayfly.yaml:3: handler: 1 is a number, text is needed; write "1"`},
		{"handler form", "name: a\nruntime: node\nhandler: app\n", `dayfly.yaml:3: handler: "app" is not module.function; write app.handler, or src/app.handler for a module in a folder`},
		{"runtime", "name: a\nruntime: pyhton\n", `dayfly.yaml:2: runtime: "pyhton" is not a runtime; did you mean "python"?`},
		{"other runtime", "name: a\nruntime: cobol\n", `dayfly.yaml:2: runtime: "cobol" is not a runtime; use python, node, go, provided or image`},
		{"name", "name: My_Function\nruntime: go\n", `dayfly.yaml:1: name: "My_Function" is not a name; use lower-case letters, digits and inner hyphens, at most 63`},
		{"name type", "name: 12\nruntime: go\n", `dayfly.yaml:1: name: 12 is a number, text is needed; write "12"`},
		{
			"all at once", "nme: a\nruntime: go\nmemory: 1\ncpu: x\n",
			"dayfly.yaml:1: unknown key \"nme\"; did you mean \"name\"?\n" +
				"dayfly.yaml:1: \"name\" is missing; add one, as in \"name: thumbnail\"\n" +
				"dayfly.yaml:3: memory: \"1\" is out of bounds; 32Mi to 10Gi are allowed\n" +
				"dayfly.yaml:4: cpu: \"x\" is not a number of cores; write it as 0.25 (at most three decimals) or 250m (10m to 16)",
		},
	} {
		_, err := ParseManifest([]byte(test.text))
		checkMessage(t, test.name, err, test.want)
	}
}

// keys writes n keys of a mapping.
func keys(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("k%d: x", i)
	}
	return strings.Join(all, ", ")
}

func checkMessage(t *testing.T, name string, err error, want string) {
	t.Helper()
	if !wire.HasCode(err, wire.CodeInvalid) {
		t.Errorf("%s: got %v, want code invalid", name, err)
		return
	}
	if diff := cmp.Diff(want, wire.AsError(err).Message); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

func TestParseManifestBoundsItsError(t *testing.T) {
	var text strings.Builder
	text.WriteString(valid)
	for i := range 300 {
		fmt.Fprintf(&text, "k%d%s: x\n", i, strings.Repeat("y", 100))
	}
	_, err := ParseManifest([]byte(text.String()))
	message := wire.AsError(err).Message
	if lines := strings.Split(message, "\n"); len(lines) != maxProblems+1 || lines[maxProblems] != "dayfly.yaml: and 275 more problems" {
		t.Errorf("got %d lines, the last: %s", len(lines), lines[len(lines)-1])
	}
}

func TestParseManifestBoundsEachProblem(t *testing.T) {
	_, err := ParseManifest([]byte(valid + "env:\n  " + strings.Repeat("K", 60_000) + ": 1\n"))
	checkMessage(t, "long key", err, "dayfly.yaml:5: env."+strings.Repeat("K", maxProblemBytes-4)+"…")
}

func TestParseManifestEnvEntries(t *testing.T) {
	manifest := func(n int) []byte {
		var text strings.Builder
		text.WriteString(valid + "env:\n")
		for i := range n {
			fmt.Fprintf(&text, "  K%d: x\n", i)
		}
		return []byte(text.String())
	}
	if m, err := ParseManifest(manifest(MaxEnvEntries)); err != nil || len(m.Spec.Env) != MaxEnvEntries {
		t.Errorf("at the limit: %d, %v", len(m.Spec.Env), err)
	}
	_, err := ParseManifest(manifest(MaxEnvEntries + 1))
	checkMessage(t, "above", err, "dayfly.yaml:4: env: 101 variables are too many; at most 100 are allowed")
}

// Whatever a parser accepts, its formatter writes back to the same number.
func TestQuantitiesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.Int64Range(0, 1<<40).Draw(t, "bytes")
		if got, err := parseSize(formatSize(bytes)); err != nil || got != bytes {
			t.Fatalf("size %d: %s: %d, %v", bytes, formatSize(bytes), got, err)
		}
		millis := rapid.Int64Range(0, 1<<40).Draw(t, "millis")
		if got, err := parseCPU(formatCPU(millis)); err != nil || got != millis {
			t.Fatalf("cpu %d: %s: %d, %v", millis, formatCPU(millis), got, err)
		}
		if got, err := parseCPU(fmt.Sprintf("%d.%03d", millis/1000, millis%1000)); err != nil || got != millis {
			t.Fatalf("cpu %d: %d, %v", millis, got, err)
		}
		minutes := time.Duration(rapid.Int64Range(1, 1000).Draw(t, "minutes")) * time.Minute
		if got, err := parseDuration(formatDuration(minutes)); err != nil || got != minutes {
			t.Fatalf("duration %v: %v, %v", minutes, got, err)
		}
	})
}

func TestEditDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"handlr", "handler", 1}, {"hanlder", "handler", 1},
		{"kitten", "sitting", 3}, {"ab", "ba", 1}, {"memory", "cpu", 6},
	} {
		if got := editDistance(test.a, test.b); got != test.want || editDistance(test.b, test.a) != got {
			t.Errorf("%q, %q: got %d, want %d both ways", test.a, test.b, got, test.want)
		}
	}
}

// No input makes the parser panic, hang or return a manifest out of bounds, and
// every refusal says where.
func FuzzParseManifest(f *testing.F) {
	for _, seed := range []string{
		"", valid, valid + "memory: 256Mi\ncpu: 0.25\ntimeout: 30s\nenv: {A: \"1\"}\nsecrets: [B, {name: C, as: env}]\noutput: {store: true}\ntriggers:\n  - http: {}\n",
		"name: a\nruntime: go\n", "a: &a [*a]\n", "? a\n: b\n", "- - - -\n", "{a: {b: [c]}}", "env: |\n  a\n", "\ufeff---\n...\n", "a: !!x\n",
		"name: >-\n  a\nruntime: \"go\"\r\n", "a:\n b:\n  - c\n -d\n", "%YAML\n", "a: 'b\n", "\"\\x00\": 1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			message := wire.AsError(err).Message
			if !wire.HasCode(err, wire.CodeInvalid) || len(message) > (maxProblems+1)*2*maxProblemBytes {
				t.Fatalf("error %v", err)
			}
			for line := range strings.Lines(message) {
				if !strings.HasPrefix(line, ManifestName+":") {
					t.Fatalf("line %q of the error %v", line, err)
				}
			}
			return
		}
		checkWithinBounds(t, m)
	})
}

func checkWithinBounds(t *testing.T, m Manifest) {
	t.Helper()
	s := m.Spec
	within := wire.ValidName(m.Name) && s.Runtime != "" && s.Handler != "" && s.Network != "" &&
		s.MemoryBytes >= MinMemoryBytes && s.MemoryBytes <= MaxMemoryBytes &&
		s.CPUMillis >= MinCPUMillis && s.CPUMillis <= MaxCPUMillis &&
		s.Timeout() >= MinTimeout && s.Timeout() <= MaxTimeout &&
		s.Concurrency == 1 && s.MinInstances == 0 && s.MaxInstances >= 1 && s.MaxInstances <= MaxMaxInstances &&
		len(s.Env) <= MaxEnvEntries && len(s.Secrets) <= MaxSecrets
	if !within {
		t.Fatalf("out of bounds: %+v", m)
	}
}
