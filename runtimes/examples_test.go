package runtimes

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamples makes the calls of the examples' demo.json, as a gateway would,
// for those that need no builder.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, example := range []struct{ name, runtime, handler, network string }{
		{"hello", "python", "app.handler", "none"},
		{"csv2json", "python", "app.handler", "none"},
		{"webhook", "node", "index.handler", "none"},
		{"checksum", "provided", "bootstrap", "host"},
	} {
		t.Run(example.name, func(t *testing.T) {
			t.Parallel()
			folder, err := filepath.Abs(filepath.Join("..", "examples", example.name))
			if err != nil {
				t.Fatal(err)
			}
			in := startFolder(t, example.runtime, example.handler, folder, example.network, 1, "WEBHOOK_SECRET=dayfly-demo-secret")
			for _, call := range demoCalls(t, filepath.Join(folder, "demo.json")) {
				a := in.call(event{body: call.event(t)})
				status, body := httpAnswer(t, a)
				if status != call.ExpectStatus {
					t.Errorf("%s: status %d, want %d: %s", call.Path, status, call.ExpectStatus, body)
				}
				for _, want := range call.contains(t) {
					if !strings.Contains(body, want) {
						t.Errorf("%s: %s lacks %s", call.Path, body, want)
					}
				}
			}
		})
	}
}

type demoCall struct {
	Method, Path, BodyBase64 string
	Headers                  map[string]string
	Body, ExpectContains     json.RawMessage
	ExpectStatus             int
}

func demoCalls(t *testing.T, path string) []demoCall {
	t.Helper()
	var demo struct{ Calls []demoCall }
	content, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(content, &demo)
	}
	if err != nil || len(demo.Calls) == 0 {
		t.Fatalf("%s: %d calls, %v", path, len(demo.Calls), err)
	}
	return demo.Calls
}

func (c demoCall) contains(t *testing.T) []string {
	t.Helper()
	var one string
	if json.Unmarshal(c.ExpectContains, &one) == nil {
		return []string{one}
	}
	var all []string
	if err := json.Unmarshal(c.ExpectContains, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// event is what the function gets: the payload itself, or a function-URL event.
func (c demoCall) event(t *testing.T) []byte {
	t.Helper()
	text := string(c.Body)
	var quoted string
	if json.Unmarshal(c.Body, &quoted) == nil {
		text = quoted
	}
	if strings.HasPrefix(c.Path, "/v1/") {
		return []byte(text)
	}
	target, err := url.Parse(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	headers, query := map[string]string{}, map[string]string{}
	for name, value := range c.Headers {
		headers[strings.ToLower(name)] = value
	}
	for name := range target.Query() {
		query[name] = target.Query().Get(name)
	}
	request := map[string]any{
		"version": "2.0", "rawPath": target.Path, "rawQueryString": target.RawQuery, "headers": headers,
		"requestContext":  map[string]any{"http": map[string]any{"method": c.Method, "path": target.Path}},
		"isBase64Encoded": c.BodyBase64 != "",
	}
	if len(query) > 0 {
		request["queryStringParameters"] = query
	}
	if body := text + c.BodyBase64; body != "" {
		request["body"] = body
	}
	encoded, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// httpAnswer turns a function's result into a status and a body.
func httpAnswer(t *testing.T, a answer) (status int, body string) {
	t.Helper()
	if a.kind != "response" {
		return 502, string(a.body)
	}
	var response struct {
		StatusCode      int
		Body            string
		IsBase64Encoded bool
	}
	if json.Unmarshal(a.body, &response) != nil || response.StatusCode == 0 {
		return 200, string(a.body)
	}
	if !response.IsBase64Encoded {
		return response.StatusCode, response.Body
	}
	decoded, err := base64.StdEncoding.DecodeString(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(decoded)
}
