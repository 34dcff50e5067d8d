package client_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/dayfly-run/dayfly/sdk/client"
)

// fixed is a server that always gives the same answer.
type fixed struct {
	status      int
	contentType string
	body        []byte
}

func (f fixed) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: f.status, Header: http.Header{"Content-Type": {f.contentType}},
		Body: io.NopCloser(bytes.NewReader(f.body)), Request: r,
	}, nil
}

// FuzzAnswers: whatever a server says, a failure stays an error of bounded
// length that says something, and a stream ends.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"code":"not_found","detail":"x"}`))
	f.Add([]byte(`{"code":"throttled","retryAfterMillis":-1,"trace":null}`))
	f.Add([]byte("{\"text\":\"one\\n\"}\n\xff\n"))
	f.Add([]byte("<html>\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, contentType := range []string{"application/problem+json", "text/html", "", "a;b;c=\xff"} {
			c := newClient(t, "http://host", client.WithHTTPClient(&http.Client{Transport: fixed{500, contentType, body}}))
			err := c.Ready(t.Context())
			if err == nil || err.Error() == "" || len(err.Error()) > 2000+4*len(body) {
				t.Errorf("%q with %q: error = %v", contentType, body, err)
			}
		}
		c := newClient(t, "http://host", client.WithHTTPClient(&http.Client{Transport: fixed{200, "application/x-ndjson", body}}))
		entries := 0
		for range c.Logs(t.Context(), "x", client.LogOptions{}) {
			entries++
		}
		if entries > bytes.Count(body, []byte("\n"))+1 {
			t.Errorf("%d entries in %q", entries, body)
		}
	})
}
