package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")

var resize = functions.Version{VersionID: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "team-a", Name: "resize"}, Number: 3}}

// testdata is where it is before the S3 server takes the working directory.
var testdata, errTestdata = filepath.Abs("testdata")

// golden compares with a file under testdata; run with DAYFLY_UPDATE_GOLDEN=1 to
// write it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if errTestdata != nil {
		t.Fatal(errTestdata)
	}
	path := filepath.Join(testdata, name)
	if os.Getenv("DAYFLY_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestHTTPEventAsJSON holds the event to its golden files: functions in any
// language read it.
func TestHTTPEventAsJSON(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 5e6, time.FixedZone("", 9*3600))
	for name, test := range map[string]struct {
		method, target, body string
		header               http.Header
	}{
		"get": {"GET", "/f/resize.team-a", "", http.Header{"User-Agent": {"curl/8"}}},
		"post": {"POST", "/f/resize.team-a:live/thumbs/my%20cat.png?w=1&w=2&q=a%20b&flag", `{"a":"<ü>"}`, http.Header{
			"Content-Type": {"application/json; charset=utf-8"}, "Cookie": {"a=1; b=2;", "c=3"}, "X-Twice": {"one", "two"},
		}},
		"binary":     {"PUT", "/f/resize.team-a/x", "\x89PNG\x00", http.Header{"Content-Type": {"image/png"}}},
		"odd_path":   {"GET", "/f/resize.team-a/a%2Fb//c%3F/?%zz", "", nil},
		"empty_body": {"POST", "/f/resize.team-a/", "", http.Header{"Content-Type": {"application/json"}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
			r.Host, r.RemoteAddr = "api.example.com:8080", "203.0.113.7:4711"
			if test.header != nil {
				r.Header = test.header
			}
			event, err := encodeEvent(newHTTPEvent(r, id, resize, []byte(test.body), at), []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, event, "", "  "); err != nil {
				t.Fatal(err)
			}
			golden(t, "event_"+name+".json", append(indented.Bytes(), '\n'))
		})
	}
}

// TestTextOrBinary: what a function in any language can read as text goes as it is.
func TestTextOrBinary(t *testing.T) {
	for contentType, text := range map[string]bool{
		"text/plain": true, "text/html; charset=utf-8": true, "TEXT/CSV": true, "application/json": true, "application/problem+json": true,
		"application/x-www-form-urlencoded": true, "image/svg+xml": true, "application/xml": true, "application/javascript": true,
		"application/x-ndjson": true, "application/yaml": true, "": false, "image/png": false, "application/octet-stream": false,
		"application/gzip": false, "multipart/form-data; boundary=x": false, "json": false, "text": false, ";": false,
	} {
		if isText(contentType) != text {
			t.Errorf("%q is text: %t", contentType, !text)
		}
	}
	for body, encoded := range map[string]bool{"plain": false, "ü": false, "\xff": true} {
		r := httptest.NewRequest(http.MethodPost, "/f/x", nil)
		r.Header.Set("Content-Type", "text/plain")
		e := newHTTPEvent(r, id, resize, []byte(body), time.Time{})
		want := body
		if encoded {
			want = base64.StdEncoding.EncodeToString([]byte(body))
		}
		if e.IsBase64Encoded != encoded || *e.Body != want {
			t.Errorf("%q: %q, encoded %t", body, *e.Body, e.IsBase64Encoded)
		}
	}
}

// TestLargestBodyFitsAnEvent, even of bytes that JSON writes as six.
func TestLargestBodyFitsAnEvent(t *testing.T) {
	body := bytes.Repeat([]byte("\x01"), wire.MaxSyncPayload)
	r := httptest.NewRequest(http.MethodPost, "/f/x", nil)
	r.Header.Set("Content-Type", "text/plain")
	event, err := encodeEvent(newHTTPEvent(r, id, resize, body, time.Time{}), body)
	if err != nil || len(event) > wire.MaxEvent {
		t.Fatalf("%d bytes, %v", len(event), err)
	}
	var e httpEvent
	if err := json.Unmarshal(event, &e); err != nil {
		t.Fatal(err)
	}
	got, err := base64.StdEncoding.DecodeString(*e.Body)
	if err != nil || !e.IsBase64Encoded || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, encoded %t, %v", len(got), e.IsBase64Encoded, err)
	}
}

func TestReadBody(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		want wire.Code
	}{
		"most":     {bytes.NewReader(make([]byte, wire.MaxSyncPayload)), ""},
		"more":     {bytes.NewReader(make([]byte, wire.MaxSyncPayload+1)), wire.CodeTooLarge},
		"unlisted": {io.MultiReader(bytes.NewReader(make([]byte, wire.MaxSyncPayload+1))), wire.CodeTooLarge},
		"broken":   {iotest.ErrReader(errors.New("reset by peer")), wire.CodeInvalid},
	} {
		_, err := readBody(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/f/x", test.body))
		if (err == nil) != (test.want == "") || err != nil && !wire.HasCode(err, test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestParseHTTPResult(t *testing.T) {
	plain := http.Header{"Content-Type": {"application/json"}}
	for result, want := range map[string]httpAnswer{
		`{"a":1}`:                 {status: 200, header: plain, body: []byte(`{"a":1}`)},
		`[1]`:                     {status: 200, header: plain, body: []byte(`[1]`)},
		`"text"`:                  {status: 200, header: plain, body: []byte(`"text"`)},
		``:                        {status: 200, header: plain, body: []byte{}},
		`{"statusCode":204}`:      {status: 204, header: http.Header{}},
		"{\"statusCode\": 404}\n": {status: 404, header: http.Header{}},
		`{"statusCode":200,"body":"hi"}`: {
			status: 200, header: plain, body: []byte("hi"),
		},
		`{"statusCode":200,"body":{"a":1}}`: {status: 200, header: plain, body: []byte(`{"a":1}`)},
		`{"statusCode":200,"body":null}`:    {status: 200, header: http.Header{}},
		`{"statusCode":200,"body":"aGk=","isBase64Encoded":true,"headers":{"content-type":"text/plain"}}`: {
			status: 200, header: http.Header{"Content-Type": {"text/plain"}}, body: []byte("hi"),
		},
		`{"statusCode":201,"headers":{"x-count":12345678,"x-float":1.50,"x-yes":true,"x-nothing":null},"cookies":["a=1","b=2"]}`: {
			status: 201, header: http.Header{"X-Count": {"12345678"}, "X-Float": {"1.50"}, "X-Yes": {"true"}}, cookies: []string{"a=1", "b=2"},
		},
		`{"statusCode":200,"multiValueHeaders":{"x-a":["1","2"]},"headers":{"x-a":"0"}}`: {
			status: 200, header: http.Header{"X-A": {"1", "2"}},
		},
		`{"statusCode":200`: {status: 200, header: plain, body: []byte(`{"statusCode":200`)},
	} {
		got, err := parseHTTPResult([]byte(result))
		if err != nil {
			t.Errorf("%s: %v", result, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(httpAnswer{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", result, diff)
		}
	}
}

// TestBadHTTPResults are the function's failures, never the platform's.
func TestBadHTTPResults(t *testing.T) {
	for result, want := range map[string]string{
		`{"statusCode":"200"}`:                                 "statusCode is \"200\"; use 200 to 599",
		`{"statusCode":null}`:                                  "statusCode is null; use 200 to 599",
		`{"statusCode":0}`:                                     "statusCode is 0; use 200 to 599",
		`{"statusCode":101}`:                                   "statusCode is 101; use 200 to 599",
		`{"statusCode":600}`:                                   "statusCode is 600; use 200 to 599",
		`{"statusCode":200.5}`:                                 "statusCode is 200.5; use 200 to 599",
		`{"statusCode":200,"headers":["x"]}`:                   "cannot unmarshal array",
		`{"statusCode":200,"headers":{"x":{"y":1}}}`:           `the header "x" is no string`,
		`{"statusCode":200,"body":"%","isBase64Encoded":true}`: "not the base64 that isBase64Encoded promises",
	} {
		_, err := parseHTTPResult([]byte(result))
		e := wire.AsError(err)
		if e == nil || e.Code != wire.CodeFunctionError || e.Type != "Function.InvalidHTTPResponse" || !strings.Contains(e.Message, want) {
			t.Errorf("%s: %v, want %q", result, err, want)
		}
	}
	_, err := parseHTTPResult(bytes.Repeat([]byte("1"), wire.MaxSyncPayload+1))
	if e := wire.AsError(err); e == nil || e.Code != wire.CodeFunctionError || e.Type != "Function.ResponseSizeTooLarge" {
		t.Errorf("large result: %v", err)
	}
}

// FuzzParseHTTPResult: any result becomes a response that HTTP can carry, or the
// function's failure.
func FuzzParseHTTPResult(f *testing.F) {
	for _, seed := range []string{
		`{"statusCode":200,"body":"hi","headers":{"a":"b"}}`, `{"statusCode":204}`, `{"a":1}`, `[`, ``, `{"statusCode":1e3}`,
		`{"statusCode":200,"body":"aGk=","isBase64Encoded":true}`, `{"statusCode":304,"body":"x"}`, `{"statusCode":200,"headers":{"a\r\nb":"c\r\nd"}}`,
		`{"statusCode":200,"cookies":["a=b\r\nc: d"],"headers":{"Dayfly-Invocation":"mine","content-length":"7"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, result []byte) {
		a, err := parseHTTPResult(result)
		if err != nil {
			if !wire.HasCode(err, wire.CodeFunctionError) {
				t.Errorf("error %v", err)
			}
			return
		}
		if a.status < 200 || a.status > 599 || len(a.body) > wire.MaxSyncPayload {
			t.Fatalf("status %d, %d bytes", a.status, len(a.body))
		}
		w := httptest.NewRecorder()
		w.Header().Set(wire.HeaderInvocation, string(id))
		a.write(w)
		h := w.Result().Header
		if w.Code != a.status || h.Get(wire.HeaderInvocation) != string(id) {
			t.Errorf("status %d, invocation %q", w.Code, h.Get(wire.HeaderInvocation))
		}
		if length := h.Get("Content-Length"); length != "" && length != strconv.Itoa(len(a.body)) {
			t.Errorf("Content-Length %s for %d bytes", length, len(a.body))
		}
	})
}

func TestAnswerIsWritten(t *testing.T) {
	a := httpAnswer{
		status: 201, cookies: []string{"a=1", "b=2"}, body: []byte("hi"),
		header: http.Header{"X-A": {"1"}, "Content-Length": {"99"}, "Connection": {"close"}, "Dayfly-Version": {"99"}, "Set-Cookie": {"c=3"}},
	}
	w := httptest.NewRecorder()
	w.Header().Set(wire.HeaderVersion, "3")
	a.write(w)
	want := http.Header{"X-A": {"1"}, "Content-Length": {"2"}, "Dayfly-Version": {"3"}, "Set-Cookie": {"c=3", "a=1", "b=2"}}
	if diff := cmp.Diff(want, w.Result().Header); diff != "" || w.Code != 201 || w.Body.String() != "hi" {
		t.Errorf("%d %q (-want +got):\n%s", w.Code, w.Body, diff)
	}
}

func TestCheckJSON(t *testing.T) {
	for event, want := range map[string]string{
		`{"a":1}`: "", ` 1 `: "", `null`: "", `{a:1}`: "(byte 2)", `{"a":1`: "unexpected end", "\xff": "(byte 1)", `1 2`: "(byte 3)",
	} {
		err := checkJSON([]byte(event))
		if (err == nil) != (want == "") || err != nil && (!wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", event, err, want)
		}
	}
}
