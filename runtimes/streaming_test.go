package runtimes

import (
	"encoding/base64"
	"strings"
	"testing"
)

const pythonStreaming = `
def handler(event, context):
    if event == "number":
        yield 1
    if event == "fail":
        raise ValueError("before")
    if event == "http":
        yield {"statusCode": 201, "headers": {"content-type": "text/plain"}}
    if event == "nothing":
        return
    yield "grüß"
    yield b""
    yield bytearray(b" dich")
    if event == "fail later":
        raise ValueError("b" * 700)
`

const nodeStreaming = `
export const handler = awslambda.streamifyResponse(async (event, stream, context) => {
  if (event === 'number') { stream.write(1); }
  if (event === 'fail') throw new TypeError('before');
  if (event === 'uncaught') { stream.write('some'); setTimeout(() => { throw new RangeError('thrown later'); }, 1); return; }
  if (event === 'http') stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'content-type': 'text/plain' } });
  if (event === 'nothing') { stream.end(); return; }
  if (event === 'fail' || event !== 'http') stream.setContentType('text/plain; charset=utf-8');
  stream.write('grüß');
  stream.write('');
  if (event === 'fail later') { stream.write(' dich'); throw new TypeError('b'.repeat(700)); }
  stream.end(Buffer.from(' dich'));
});
`

const httpIntegration = "application/vnd.awslambda.http-integration-response"

// streamers are the runtimes whose handlers can send their answer while they make it.
var streamers = []struct{ name, file, source, failType string }{
	{"python", "app.py", pythonStreaming, "ValueError"},
	{"node", "app.mjs", nodeStreaming, "TypeError"},
}

func TestShimStreams(t *testing.T) {
	t.Parallel()
	for _, lang := range streamers {
		for atOnce, name := range map[int]string{1: lang.name, 3: lang.name + " at once"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				in := startMany(t, lang.name, "app.handler", atOnce, map[string]string{lang.file: lang.source})
				for range 2 {
					a := in.call(event{body: []byte(`"plain"`)})
					if a.kind != "response" || string(a.body) != "grüß dich" || a.mode != "streaming" || a.contentType != "text/plain; charset=utf-8" {
						t.Errorf("%+v: %s", a, a.body)
					}
				}
				a := in.call(event{body: []byte(`"http"`)})
				prelude, body, ok := strings.Cut(string(a.body), strings.Repeat("\x00", 8))
				if !ok || body != "grüß dich" || !strings.Contains(prelude, "201") || a.contentType != httpIntegration {
					t.Errorf("%+v: %q", a, a.body)
				}
				if a := in.call(event{body: []byte(`"nothing"`)}); a.kind != "response" || len(a.body) != 0 || a.mode != "streaming" {
					t.Errorf("%+v: %s", a, a.body)
				}
			})
		}
	}
}

func TestShimReportsErrorsOfStreams(t *testing.T) {
	t.Parallel()
	for _, lang := range streamers {
		t.Run(lang.name, func(t *testing.T) {
			t.Parallel()
			in := start(t, lang.name, "app.handler", map[string]string{lang.file: lang.source})
			for body, words := range map[string]string{`"fail"`: "before", `"number"`: "", `not JSON`: "the event is not JSON"} {
				if r := in.call(event{body: []byte(body)}).report(t); !strings.Contains(r.ErrorMessage, words) {
					t.Errorf("%s: %+v", body, r)
				}
			}
			a := in.call(event{body: []byte(`"fail later"`)})
			said, err := base64.StdEncoding.DecodeString(a.trailer.Get("Lambda-Runtime-Function-Error-Body"))
			if a.kind != "response" || string(a.body) != "grüß dich" || a.trailer.Get("Lambda-Runtime-Function-Error-Type") != lang.failType ||
				err != nil || !strings.Contains(string(said), "bbbb") {
				t.Errorf("%+v: %s, %s, %v", a, a.body, said, err)
			}
			if a := in.call(event{body: []byte(`"plain"`)}); string(a.body) != "grüß dich" {
				t.Errorf("after errors: %s", a.body)
			}
		})
	}
}

// TestUncaughtErrorInAStream: it is told before the process ends.
func TestUncaughtErrorInAStream(t *testing.T) {
	t.Parallel()
	in := start(t, "node", "app.handler", map[string]string{"app.mjs": nodeStreaming})
	a := in.call(event{body: []byte(`"uncaught"`)})
	if string(a.body) != "some" || a.trailer.Get("Lambda-Runtime-Function-Error-Type") != "RangeError" {
		t.Errorf("%+v: %s", a, a.body)
	}
	if code := in.exit(); code != 1 {
		t.Errorf("exit status %d", code)
	}
}
