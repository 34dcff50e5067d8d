package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/google/go-cmp/cmp"
)

// stream answers with lines of NDJSON.
func stream(w http.ResponseWriter, lines ...string) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	_, _ = io.WriteString(w, strings.Join(lines, ""))
	_ = http.NewResponseController(w).Flush()
}

func collect(ctx context.Context, c *client.Client, options client.LogOptions) (texts []string, err error) {
	for entry, err := range c.Logs(ctx, "x.team-a:2", options) {
		if err != nil {
			return texts, err
		}
		texts = append(texts, entry.Text)
	}
	return texts, nil
}

func TestLogs(t *testing.T) {
	var uri string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		uri = r.RequestURI
		stream(w, `{"invocation":"`+string(invocation)+`","text":"one\n"}`+"\n", "\n", `{"text":"two","last":true}`)
	})
	for _, test := range []struct {
		options client.LogOptions
		want    string
	}{
		{client.LogOptions{}, "/v1/functions/x.team-a:2/logs"},
		{client.LogOptions{Tail: -1}, "/v1/functions/x.team-a:2/logs?tail=0"},
		{client.LogOptions{Tail: 5, Follow: true, Invocation: invocation},
			"/v1/functions/x.team-a:2/logs?follow=true&invocation=" + string(invocation) + "&tail=5"},
	} {
		texts, err := collect(t.Context(), c, test.options)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"one\n", "two"}, texts); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if uri != test.want {
			t.Errorf("the server got %s, want %s", uri, test.want)
		}
	}
}

// TestLogsFollow: each entry arrives while the stream is open, and leaving the
// loop ends the server's work.
func TestLogsFollow(t *testing.T) {
	received, ended := make(chan struct{}), make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		stream(w, `{"text":"one\n"}`+"\n")
		<-received
		stream(w, `{"text":"two\n"}`+"\n")
		<-r.Context().Done()
	})
	var texts []string
	for entry, err := range c.Logs(t.Context(), "x", client.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, entry.Text)
		if len(texts) == 2 {
			break
		}
		close(received)
	}
	<-ended
	if diff := cmp.Diff([]string{"one\n", "two\n"}, texts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLogsStopWithTheContext(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		stream(w, `{"text":"one\n"}`+"\n")
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range c.Logs(ctx, "x", client.LogOptions{Follow: true}) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("error = %v", last)
	}
}

func TestLogsThatBreak(t *testing.T) {
	long, err := json.Marshal(wire.LogEntry{Text: strings.Repeat("x", 7*wire.MaxInvocationLog)})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"in the middle of a line": {func(w http.ResponseWriter, _ *http.Request) {
			stream(w, `{"text":"one\n"}`+"\n", `{"te`)
			panic(http.ErrAbortHandler)
		}, "the connection failed"},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) {
			stream(w, `{"text":"one\n"}`+"\n", "oops\n", `{"text":"two\n"}`+"\n")
		}, "not an answer of Dayfly's"},
		"endless line": {func(w http.ResponseWriter, _ *http.Request) {
			stream(w, `{"text":"one\n"}`+"\n", string(long))
		}, "a line has more than"},
	} {
		t.Run(name, func(t *testing.T) {
			texts, err := collect(t.Context(), serve(t, test.handler), client.LogOptions{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
			if diff := cmp.Diff([]string{"one\n"}, texts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLogsRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, wire.Errorf(wire.CodeNotFound, "there is no function x"), "")
	})
	if _, err := collect(t.Context(), c, client.LogOptions{}); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("error = %v", err)
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	_, err := collect(t.Context(), c, client.LogOptions{})
	if _, ok := errors.AsType[*client.ResponseError](err); !ok {
		t.Errorf("error = %v, want a ResponseError", err)
	}
}
