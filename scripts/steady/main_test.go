package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// platform answers like a gateway, and ends its input once it had calls and events.
type platform struct {
	call func(attempt int) int // its status
	end  string                // state that events come to

	mu       sync.Mutex
	attempts int
	events   int
	looks    map[string]int // at a record
	input    *io.PipeWriter
}

// enough is how many attempts and events there are before the input ends.
const enough = 3

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.Method == http.MethodGet: // an event's record
		p.looks[r.URL.Path]++
		state := p.end
		if p.looks[r.URL.Path] == 1 {
			state = "running"
		}
		fmt.Fprintf(w, `{"state": %q}`, state)
	case r.Header.Get("Prefer") != "":
		p.events++
		w.Header().Set("Location", fmt.Sprintf("/v1/invocations/%d", p.events))
		w.WriteHeader(http.StatusAccepted)
	default:
		p.attempts++
		w.WriteHeader(p.call(p.attempts))
	}
	if p.attempts >= enough && p.events >= enough {
		p.input.Close()
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	fine := func(int) int { return http.StatusOK }
	for name, test := range map[string]struct {
		call       func(int) int
		end        string
		patience   string
		wantOutput string
		wantError  string
	}{
		"all is well": {fine, "succeeded", "1m", "failed 0, tried again 0;", ""},
		"a call is repeated": {func(n int) int {
			if n == 1 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}, "succeeded", "1m", "failed 0, tried again 1;", ""},
		"it says why": {func(n int) int {
			if n == 1 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}, "succeeded", "1m", "for example: /v1/functions/hello/invocations is answered 503 Service Unavailable:", ""},
		"no call works":    {func(int) int { return http.StatusBadGateway }, "succeeded", "1ms", "refused 0, not done 0;", "502 Bad Gateway"},
		"an event is dead": {fine, "dead", "1m", "failed 0,", `it is "dead"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			input, end := io.Pipe()
			p := &platform{call: test.call, end: test.end, looks: map[string]int{}, input: end}
			server := httptest.NewServer(p)
			defer server.Close()
			var out bytes.Buffer
			err := run(t.Context(), []string{"--url", server.URL, "--patience", test.patience}, input, &out)
			if !strings.Contains(out.String(), test.wantOutput) {
				t.Errorf("output has no %q:\n%s", test.wantOutput, &out)
			}
			switch {
			case test.wantError == "" && err != nil:
				t.Errorf("error: %v", err)
			case test.wantError != "" && (err == nil || !strings.Contains(err.Error(), test.wantError)):
				t.Errorf("error %v lacks %q", err, test.wantError)
			}
		})
	}
}
