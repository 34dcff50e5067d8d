package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// echo answers 404 for /f/echo/missing and otherwise what it was sent.
func echo(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		io.WriteString(w, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("X-Key")+" ")
		io.Copy(w, r.Body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// folder makes an example with these calls.
func folder(t *testing.T, calls string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"dayfly.yaml": "# an example\nname: echo\nruntime: python\n",
		"demo.json":   `{"calls":[` + calls + `]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ calls, wantOutput, wantError string }{
		"defaults":       {`{}`, "all 1 calls", ""},
		"text body":      {`{"method":"POST","body":"a,b","expectContains":"POST /f/echo  a,b"}`, "ok", ""},
		"JSON body":      {`{"method":"POST","body":{"a":1},"expectContains":["{\"a\":1}"]}`, "ok", ""},
		"bytes":          {`{"method":"POST","bodyBase64":"aGVsbG8=","expectContains":"hello"}`, "ok", ""},
		"path and query": {`{"path":"/x?y=1","headers":{"X-Key":"k"},"expectContains":"GET /f/echo/x?y=1 k"}`, "/f/echo/x?y=1", ""},
		"whole path":     {`{"path":"/v1/nodes","expectContains":"GET /v1/nodes"}`, "ok", ""},
		"status":         {`{"path":"/missing","expectStatus":404}`, "404", ""},
		"wrong status":   {`{},{"path":"/missing"}`, "failed", "1 of 2 calls failed:\nGET /f/echo/missing: status 404 instead of 200"},
		"wrong answer":   {`{"expectContains":"gone"}`, "failed", `no "gone" in the answer: "GET /f/echo`},
		"unknown key":    {`{"expect":"x"}`, "", "unknown field"},
		"two bodies":     {`{"body":"x","bodyBase64":"eA=="}`, "", "calls[0]: body and bodyBase64"},
		"no calls":       {``, "", "no calls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := run(t.Context(), []string{"--url", echo(t), folder(t, test.calls)}, &out)
			if !strings.Contains(out.String(), test.wantOutput) {
				t.Errorf("output has no %q:\n%s", test.wantOutput, &out)
			}
			switch {
			case test.wantError == "" && err != nil:
				t.Errorf("error: %v", err)
			case test.wantError != "" && (err == nil || !strings.Contains(err.Error(), test.wantError)):
				t.Errorf("error %v, want one with %q", err, test.wantError)
			}
		})
	}
}

func TestRunWithoutFolders(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), nil, io.Discard); err == nil {
		t.Error("no error without folders")
	}
}
