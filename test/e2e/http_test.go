package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// Point 7: HTTP in and out.

// urlEvent is the Lambda function-URL event, payload format 2.0, as a function must
// find it.
type urlEvent struct {
	Version               string            `json:"version"`
	RouteKey              string            `json:"routeKey"`
	RawPath               string            `json:"rawPath"`
	RawQueryString        string            `json:"rawQueryString"`
	Cookies               []string          `json:"cookies"`
	Headers               map[string]string `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters"`
	Body                  *string           `json:"body"`
	IsBase64Encoded       bool              `json:"isBase64Encoded"`
	RequestContext        struct {
		AccountID    string `json:"accountId"`
		APIID        string `json:"apiId"`
		DomainName   string `json:"domainName"`
		DomainPrefix string `json:"domainPrefix"`
		RequestID    string `json:"requestId"`
		RouteKey     string `json:"routeKey"`
		Stage        string `json:"stage"`
		Time         string `json:"time"`
		TimeEpoch    int64  `json:"timeEpoch"`
		HTTP         struct {
			Method    string `json:"method"`
			Path      string `json:"path"`
			Protocol  string `json:"protocol"`
			SourceIP  string `json:"sourceIp"`
			UserAgent string `json:"userAgent"`
		} `json:"http"`
	} `json:"requestContext"`
}

func TestHTTPEvent(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		a := p.do(t, http.MethodPatch, "/f/"+name+"/a%20b/c?x=1&x=2&y=%26", []byte("text ä"),
			"Content-Type: text/plain; charset=utf-8", "X-Twice: one", "X-Twice: two", "User-Agent: e2e/1", "Cookie: a=1; b=2")
		e := decode[urlEvent](t, a)
		host := strings.TrimPrefix(p.url, "http://")
		for what, pair := range map[string][2]string{
			"version":   {e.Version, "2.0"},
			"routeKey":  {e.RouteKey, "$default"},
			"rawPath":   {strings.ReplaceAll(e.RawPath, "%20", " "), "/a b/c"},
			"query":     {e.RawQueryString, "x=1&x=2&y=%26"},
			"x":         {e.QueryStringParameters["x"], "1,2"},
			"y":         {e.QueryStringParameters["y"], "&"},
			"cookies":   {strings.Join(e.Cookies, ";"), "a=1;b=2"},
			"no cookie": {e.Headers["cookie"], ""},
			"x-twice":   {e.Headers["x-twice"], "one,two"},
			"type":      {e.Headers["content-type"], "text/plain; charset=utf-8"},
			"host":      {e.Headers["host"], host},
			"method":    {e.RequestContext.HTTP.Method, "PATCH"},
			"path":      {strings.ReplaceAll(e.RequestContext.HTTP.Path, "%20", " "), "/a b/c"},
			"protocol":  {e.RequestContext.HTTP.Protocol, "HTTP/1.1"},
			"source":    {e.RequestContext.HTTP.SourceIP, "127.0.0.1"},
			"agent":     {e.RequestContext.HTTP.UserAgent, "e2e/1"},
			"request":   {e.RequestContext.RequestID, a.invocation()},
			"domain":    {e.RequestContext.DomainName, host},
			"stage":     {e.RequestContext.Stage, "$default"},
			"route":     {e.RequestContext.RouteKey, "$default"},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
			}
		}
		if e.Body == nil || *e.Body != "text ä" || e.IsBase64Encoded || e.RequestContext.TimeEpoch < 1e12 || e.RequestContext.Time == "" {
			t.Errorf("got %+v", e)
		}
		if a.header.Get("Dayfly-Version") != "1" || a.header.Get("Dayfly-Cold") == "" || a.header.Get("Dayfly-Run-Micros") == "" {
			t.Errorf("headers %v", a.header)
		}
	})
}

func TestHTTPMethods(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			e := decode[urlEvent](t, p.do(t, method, "/f/"+name, nil))
			if e.RequestContext.HTTP.Method != method || e.RawPath != "/" || e.Body != nil || e.QueryStringParameters != nil {
				t.Errorf("%s: got %+v", method, e)
			}
		}
		if a := p.do(t, http.MethodHead, "/f/"+name, nil); a.status != http.StatusOK || len(a.body) != 0 {
			t.Errorf("HEAD: %d with %d bytes", a.status, len(a.body))
		}
		// By a number, and by a namespace.
		decode[urlEvent](t, p.do(t, http.MethodGet, "/f/"+name+".default:1/x", nil))
	})
}

func TestHTTPBinary(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		every := make([]byte, 256)
		for i := range every {
			every[i] = byte(i)
		}
		a := p.do(t, http.MethodPost, "/f/"+name+"/mirror", every, "Content-Type: application/x-every").want(t, http.StatusOK)
		if !bytes.Equal(a.body, every) || a.header.Get("Content-Type") != "application/x-every" {
			t.Errorf("got %q %x", a.header.Get("Content-Type"), a.body)
		}
		e := decode[urlEvent](t, p.do(t, http.MethodPost, "/f/"+name, every, "Content-Type: text/plain"))
		if !e.IsBase64Encoded || e.Body == nil || *e.Body != base64.StdEncoding.EncodeToString(every) {
			t.Errorf("bytes that are no text came as %+v", e)
		}
	})
}

func TestHTTPResponse(t *testing.T) {
	t.Parallel()
	reply := func(t *testing.T, p *platform, result string) answer {
		t.Helper()
		return p.do(t, http.MethodPost, "/f/"+p.probe(t)+"/reply", []byte(result), "Content-Type: application/json")
	}
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		a := reply(t, p, `{"statusCode":302,"headers":{"Location":"/there","X-Number":7},"cookies":["a=1; Path=/","b=2"],"body":"moved"}`)
		a.want(t, http.StatusFound)
		if a.header.Get("Location") != "/there" || a.header.Get("X-Number") != "7" || string(a.body) != "moved" ||
			!slices.Equal(a.header.Values("Set-Cookie"), []string{"a=1; Path=/", "b=2"}) {
			t.Errorf("got %v %q", a.header, a.body)
		}
		for result, want := range map[string]string{
			`"text"`: `"text"`, `[1, 2]`: `[1, 2]`, `null`: `null`, `{"a": 1}`: `{"a": 1}`, `{"body": "x"}`: `{"body": "x"}`,
		} {
			a := reply(t, p, result).want(t, http.StatusOK)
			var got, wanted any
			if json.Unmarshal(a.body, &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: got %q %s", result, a.header.Get("Content-Type"), a.body)
			}
			if g, w := mustJSON(t, got), mustJSON(t, wanted); g != w {
				t.Errorf("%s: got %s, want %s", result, g, w)
			}
		}
		if a := reply(t, p, `{"statusCode":204}`).want(t, http.StatusNoContent); len(a.body) != 0 {
			t.Errorf("204 with %q", a.body)
		}
		for _, bad := range []string{
			`{"statusCode":99}`, `{"statusCode":"many"}`, `{"statusCode":200,"body":"%","isBase64Encoded":true}`, `{"statusCode":200,"headers":7}`,
		} {
			doc := reply(t, p, bad).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "no HTTP response")
			if doc.Invocation == "" {
				t.Errorf("%s: no invocation in %+v", bad, doc)
			}
		}
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestLargeBodies moves bodies that no NATS message could carry.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: large\nruntime: python\nhandler: app.handler\nmemory: 256Mi\n", "probe/app.py")
		body := bytes.Repeat([]byte("0123456789abcde\n"), wire.MaxSyncPayload/16)
		a := p.do(t, http.MethodPost, "/f/"+name+"/mirror", body, "Content-Type: application/octet-stream").want(t, http.StatusOK)
		if !bytes.Equal(a.body, body) {
			t.Errorf("%d bytes came back as other %d", len(body), len(a.body))
		}
		text := strings.Repeat("x", wire.MaxSyncPayload-len(`{"do":"size","text":""}`))
		p.invoke(t, name, map[string]string{"do": "size", "text": text}).wantJSON(t, "6291433")
		if a := p.invoke(t, name, map[string]any{"do": "fill", "size": wire.MaxSyncPayload - 2}).want(t, http.StatusOK); len(a.body) != wire.MaxSyncPayload {
			t.Errorf("a result of %d bytes came as %d", wire.MaxSyncPayload, len(a.body))
		}

		over := append(body, 'x')
		p.do(t, http.MethodPost, "/f/"+name+"/mirror", over).wantProblem(t, http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "6291456")
		p.do(t, http.MethodPost, "/v1/functions/"+name+"/invocations", over).wantProblem(t, http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "6291456")
		// Without a length that says so beforehand.
		chunked, err := p.request(http.MethodPost, "/f/"+name+"/mirror", struct{ *bytes.Reader }{bytes.NewReader(over)})
		if err != nil {
			t.Fatal(err)
		}
		chunked.wantProblem(t, http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "6291456")
		p.invoke(t, name, map[string]any{"do": "fill", "size": wire.MaxSyncPayload}).
			wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "6291456")
		p.invoke(t, name, map[string]any{"do": "fill", "size": wire.MaxEvent + 1}).
			wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "10485760")
		p.invoke(t, name, map[string]any{"do": "echo", "value": 1}).wantJSON(t, "1")
	})
}

func TestRawInvocation(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shell(t)
		path := "/v1/functions/" + name + "/invocations"
		// Bytes for bytes: what is sent is not read and written anew.
		event := "{ \"z\" : 1.0,\n\"a\":\"\\u00e4\" }"
		a := p.do(t, http.MethodPost, path, []byte(event)).want(t, http.StatusOK)
		if string(a.body) != event || a.header.Get("Content-Type") != "application/json" || a.invocation() == "" {
			t.Errorf("got %s %v", a.body, a.header)
		}
		p.do(t, http.MethodPost, path, nil).wantJSON(t, "{}")
		for _, bad := range []string{"{", "no", "{} {}", "\xff"} {
			p.do(t, http.MethodPost, path, []byte(bad)).wantProblem(t, http.StatusBadRequest, wire.CodeInvalid, "no JSON", "/f/NAME")
		}
	})
}
