package gateway

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

func TestConfig(t *testing.T) {
	w := newWorld(t)
	const path = "/v1/functions/hello/config"
	none := decode[functions.Config](t, w.ask(http.MethodGet, path, nil), 200)
	if diff := cmp.Diff(functions.Config{Revision: "0", Values: map[string]string{}}, none); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	first := decode[functions.Config](t, w.ask(http.MethodPatch, path, strings.NewReader(`{"set":{"A":"1","B":"2"}}`), asJSON), 200)
	second := decode[functions.Config](t, w.ask(http.MethodPatch, path, strings.NewReader(`{"set":{"A":"3"},"remove":["B"]}`), asJSON), 200)
	if diff := cmp.Diff(map[string]string{"A": "3"}, second.Values); diff != "" || first.Revision == second.Revision {
		t.Errorf("revision %s, then %s (-want +got):\n%s", first.Revision, second.Revision, diff)
	}
	if diff := cmp.Diff(second, decode[functions.Config](t, w.ask(http.MethodGet, "/v1/functions/hello.default/config", nil), 200)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantProblem(t, w.ask(http.MethodPatch, path, strings.NewReader(`{"set":{"A B":"1"}}`), asJSON), 400, wire.CodeInvalid, "is not a name")
	wantProblem(t, w.ask(http.MethodPatch, path, strings.NewReader(`{"set":{"A":"1"},"remove":["A"]}`), asJSON), 400, wire.CodeInvalid, "set and removed")
	wantProblem(t, w.ask(http.MethodPatch, path, strings.NewReader(fmt.Sprintf(`{"set":{"A":%q}}`, strings.Repeat("x", wire.MaxConfigBytes))), asJSON),
		413, wire.CodeTooLarge, "65537 bytes")
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello:3/config", nil), 400, wire.CodeInvalid, "without a version")
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/Hello/config", nil), 400, wire.CodeInvalid, "not valid")
}

type secrets struct {
	Secrets []functions.SecretInfo `json:"secrets"`
}

func TestSecrets(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t)
	w.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	const value = `hunter2 "in quotes"`
	answers := &strings.Builder{}
	ask := func(method, path, body string) (status int) {
		t.Helper()
		got := w.ask(method, path, strings.NewReader(body), asJSON)
		answers.Write(got.Body.Bytes())
		return got.Code
	}
	if got := ask(http.MethodPut, "/v1/functions/hello/secrets/TOKEN", fmt.Sprintf(`{"value":%q}`, value)); got != 200 {
		t.Fatalf("status %d: %s", got, answers)
	}
	list := decode[secrets](t, w.ask(http.MethodGet, "/v1/functions/hello/secrets", nil), 200)
	if len(list.Secrets) != 1 || list.Secrets[0].Name != "TOKEN" || list.Secrets[0].UpdatedAt.IsZero() {
		t.Errorf("%+v", list)
	}
	if n := decode[map[string]int](t, w.ask(http.MethodPost, "/v1/secrets/rotate", nil), 200); n["secrets"] != 1 {
		t.Errorf("rotated %v", n)
	}
	// Whatever is wrong, the answer does not repeat the value.
	for body, want := range map[string]int{
		`{"value":"hunter2`: 400, `"hunter2"`: 400, `{"value":["hunter2"]}`: 400, `{"val":"hunter2"}`: 400, `hunter2`: 400, ``: 400,
		`{"value":""}`: 400, `{"value":"hunter2\u0000"}`: 400,
		`{"value":"` + strings.Repeat("hunter2", functions.MaxSecretBytes/7+1) + `"}`: 413,
		`{"value":"` + strings.Repeat("hunter2", functions.MaxSecretBytes) + `"}`:     413,
	} {
		if got := ask(http.MethodPut, "/v1/functions/hello/secrets/TOKEN", body); got != want {
			t.Errorf("%.30s: status %d, want %d", body, got, want)
		}
	}
	for path, want := range map[string]int{
		"/v1/functions/hello/secrets/A-B": 400, "/v1/functions/hello/secrets/DAYFLY_X": 400, "/v1/functions/hello:2/secrets/A": 400,
	} {
		if got := ask(http.MethodPut, path, `{"value":"hunter2"}`); got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
	if got := ask(http.MethodDelete, "/v1/functions/hello/secrets/TOKEN", ""); got != 204 {
		t.Errorf("status %d", got)
	}
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/hello/secrets/TOKEN", nil), 404, wire.CodeNotFound, "no secret TOKEN")
	if text := answers.String() + log.String(); strings.Contains(text, "hunter2") {
		t.Errorf("a value is shown: %s", text)
	}
	if !strings.Contains(log.String(), "secret set") {
		t.Errorf("the log says nothing: %s", &log)
	}
}

// A version that is to be live has its secrets.
func TestRequireSecrets(t *testing.T) {
	w := newWorld(t)
	spec := functions.Spec{Secrets: []functions.SecretUse{{Name: "TOKEN", As: functions.SecretAsBoth}}}
	err := w.requireSecrets(t.Context(), other, spec)
	if !wire.HasCode(err, wire.CodeConflict) || !strings.Contains(err.Error(), "dayfly secrets set other.team-a TOKEN") {
		t.Errorf("error %v", err)
	}
	decode[functions.SecretInfo](t, w.ask(http.MethodPut, "/v1/functions/other.team-a/secrets/TOKEN", strings.NewReader(`{"value":"x"}`)), 200)
	if err := w.requireSecrets(t.Context(), other, spec); err != nil {
		t.Error(err)
	}
	if err := w.requireSecrets(t.Context(), hello, functions.Spec{}); err != nil {
		t.Error(err)
	}
}

// What goes with a function goes with it, also when its delete was broken off before.
func TestDeleteForgetsSettings(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	for range 2 { // the second time there are settings, and no function
		decode[functions.SecretInfo](t, w.ask(http.MethodPut, "/v1/functions/hello/secrets/TOKEN", strings.NewReader(`{"value":"x"}`)), 200)
		decode[functions.Config](t, w.ask(http.MethodPatch, "/v1/functions/hello/config", strings.NewReader(`{"set":{"A":"1"}}`), asJSON), 200)
		if got := w.ask(http.MethodDelete, "/v1/functions/hello", nil); got.Code != 204 {
			t.Fatalf("status %d: %s", got.Code, got.Body)
		}
		if list := decode[secrets](t, w.ask(http.MethodGet, "/v1/functions/hello/secrets", nil), 200); len(list.Secrets) != 0 {
			t.Errorf("left %v", list)
		}
		if c := decode[functions.Config](t, w.ask(http.MethodGet, "/v1/functions/hello/config", nil), 200); len(c.Values) != 0 {
			t.Errorf("left %v", c)
		}
	}
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/hello", nil), 404, wire.CodeNotFound, "no function hello")
}
