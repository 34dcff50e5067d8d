package client_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

var thumbnail = wire.FunctionID{Namespace: "team-a", Name: "thumbnail"}

// asked serves one answer, and notes what was asked for it.
func asked(t *testing.T, request *atomic.Value, contentType, answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		request.Store(strings.TrimSpace(r.Method + " " + r.RequestURI + " " + string(body)))
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, answer)
	}
}

func TestVersions(t *testing.T) {
	const at = "/v1/functions/thumbnail.team-a"
	var got atomic.Value
	check := func(want string, err error) {
		t.Helper()
		if err != nil || got.Load() != want {
			t.Errorf("asked %v, want %s; %v", got.Load(), want, err)
		}
	}
	serving := func(answer string) http.HandlerFunc { return asked(t, &got, "application/json", answer) }

	versions, err := serve(t, serving(`{"versions":[{"number":8,"aliases":[{"name":"live","percent":10}]}]}`)).Versions(t.Context(), thumbnail)
	check("GET "+at+"/versions", err)
	if len(versions) != 1 || versions[0].Number != 8 || versions[0].Aliases[0].Percent != 10 {
		t.Errorf("%+v", versions)
	}
	aliases, err := serve(t, serving(`{"aliases":{"live":{"version":7,"weights":{"8":10}}}}`)).Aliases(t.Context(), thumbnail)
	check("GET "+at+"/aliases", err)
	split := functions.Alias{Version: 7, Weights: map[int]int{8: 10}}
	if diff := cmp.Diff(map[string]functions.Alias{"live": split}, aliases); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f, err := serve(t, serving(`{"function":{"latest":8}}`)).SetAlias(t.Context(), thumbnail, "prod", split)
	check("PUT "+at+`/aliases/prod {"version":7,"weights":{"8":10}}`, err)
	if f.Latest != 8 {
		t.Errorf("%+v", f)
	}
	check("DELETE "+at+"/aliases/prod", serve(t, serving("")).DeleteAlias(t.Context(), thumbnail, "prod"))
	done, err := serve(t, serving(`{"from":8,"to":7}`)).Rollback(t.Context(), thumbnail, 0)
	check("POST "+at+"/rollback {}", err)
	if done.From != 8 || done.To != 7 {
		t.Errorf("%+v", done)
	}
	_, err = serve(t, serving(`{"from":8,"to":5}`)).Rollback(t.Context(), thumbnail, 5)
	check("POST "+at+`/rollback {"to":5}`, err)
	var code bytes.Buffer
	err = serve(t, asked(t, &got, "application/gzip", "packed")).Code(t.Context(), wire.VersionID{FunctionID: thumbnail, Number: 7}, &code)
	check("GET "+at+":7/code", err)
	if code.String() != "packed" {
		t.Errorf("%q", code.String())
	}
}

func TestVersionsRefused(t *testing.T) {
	var got atomic.Value
	c := serve(t, asked(t, &got, "text/html", "<html>"))
	for what, err := range map[string]error{
		"alias that is a number": func() error {
			_, err := c.SetAlias(t.Context(), thumbnail, "7", functions.Alias{Version: 1})
			return err
		}(),
		"deletion of a path":  c.DeleteAlias(t.Context(), thumbnail, "a/b"),
		"rollback of no name": func() error { _, err := c.Rollback(t.Context(), wire.FunctionID{}, 0); return err }(),
	} {
		if !wire.HasCode(err, wire.CodeInvalid) || got.Load() != nil {
			t.Errorf("%s: %v, and %v was asked", what, err, got.Load())
		}
	}
	if err := c.Code(t.Context(), wire.VersionID{FunctionID: thumbnail, Number: 1}, io.Discard); err == nil || !strings.Contains(err.Error(), "text/html") {
		t.Errorf("a page as code: %v", err)
	}
}
