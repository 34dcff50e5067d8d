package runtimes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// TestSDKs runs the SDKs' own tests with the interpreters that functions get.
func TestSDKs(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"python": "cd /sdk && PYTHONPATH=. python3 -B -W error -m unittest discover -s tests",
		"node":   "cd /sdk && node --test test/",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := Lookup(name)
			image, err := images[r.Root()]()
			if err != nil {
				t.Fatal(err)
			}
			sdk, err := filepath.Abs("../sdk/" + name)
			if err != nil {
				t.Fatal(err)
			}
			said, err := docker("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "-v", sdk+":/sdk:ro", image, "/bin/sh", "-c", command)
			if err != nil {
				t.Error(err)
			}
			if !strings.Contains(said, "OK") && !strings.Contains(said, "# fail 0") {
				t.Errorf("it says %s", said)
			}
		})
	}
}

const pythonCaller = `
import dayfly

def handler(event, context):
    assert dayfly.context().invocation_id == context.aws_request_id and dayfly.context().trace_id == "Root=1"
    dayfly.put("a.txt", "text")
    dayfly.log.warn("careful", count=3)
    dayfly.publish("orders.created", event)
    return dayfly.invoke("price.shop:7", event) + [dayfly.config.get("greeting"), context.aws_request_id]
`

const nodeCaller = `
import { config, context, invoke, log, publish, put } from 'dayfly';
export const handler = async (event, given) => {
  if (context().invocationId !== given.awsRequestId || context().traceId !== 'Root=1') throw new Error('another invocation');
  put('a.txt', 'text');
  log.warn('careful', { count: 3 });
  await publish('orders.created', event);
  return [...await invoke('price.shop:7', event), await config.get('greeting'), given.awsRequestId];
};
`

const nodeRequires = `
const dayfly = require('dayfly');
exports.handler = async () => dayfly.invoke('price.shop:7', 1);
`

// TestSDKInside: functions import the SDK without installing it, and it reaches the
// Runtime API in the name of the invocation, also where several run at once.
func TestSDKInside(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler string
		files   map[string]string
	}{
		"python": {"app.handler", map[string]string{"app.py": pythonCaller}},
		"node":   {"index.handler", map[string]string{"index.mjs": nodeCaller}},
	} {
		for _, atOnce := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d", name, atOnce), func(t *testing.T) {
				t.Parallel()
				in := startMany(t, name, test.handler, atOnce, test.files)
				for range 3 {
					in.send(`{"item":"pear"}`)
				}
				for range 3 {
					a := in.answered()
					body := string(a.body)
					if name == "python" {
						body = strings.ReplaceAll(strings.ReplaceAll(body, ", ", ","), `\": \"`, `\":\"`)
					}
					want := fmt.Sprintf(`["/dayfly/v1/invoke/price.shop:7","{\"item\":\"pear\"}",%q,"Hello",%q]`, a.id, a.id)
					if a.kind != "response" || body != want {
						t.Errorf("%s %s, want %s", a.kind, a.body, want)
					}
				}
				in.waitLog(`"level":`)
				if text, err := os.ReadFile(filepath.Join(in.output, "a.txt")); err != nil || string(text) != "text" {
					t.Errorf("it left %q, %v", text, err)
				}
			})
		}
	}
	t.Run("required", func(t *testing.T) {
		t.Parallel()
		in := start(t, "node", "index.handler", map[string]string{"index.js": nodeRequires})
		if got := in.result("1"); !strings.HasPrefix(got, `["/dayfly/v1/invoke/price.shop:7","1",`) {
			t.Errorf("got %s", got)
		}
	})
}

// TestOwnSDKWins: a version that came with the function is the one that it gets.
func TestOwnSDKWins(t *testing.T) {
	t.Parallel()
	mark := uuid.NewString()
	for name, test := range map[string]struct {
		handler string
		files   map[string]string
	}{
		"python": {"app.handler", map[string]string{
			"app.py":             "import dayfly\ndef handler(event, context): return dayfly.mine",
			"dayfly/__init__.py": "mine = '" + mark + "'",
		}},
		"node": {"index.handler", map[string]string{
			"index.mjs":                        "import { mine } from 'dayfly';\nexport const handler = async () => mine;",
			"node_modules/dayfly/package.json": `{"name":"dayfly","exports":"./own.mjs"}`,
			"node_modules/dayfly/own.mjs":      "export const mine = '" + mark + "';",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := start(t, name, test.handler, test.files).result("1"); got != `"`+mark+`"` {
				t.Errorf("got %s", got)
			}
		})
	}
}
