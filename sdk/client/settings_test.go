package client_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

func TestSettings(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	id := wire.FunctionID{Namespace: "team-a", Name: "hello"}
	config := functions.Config{Revision: "7", Values: map[string]string{"A": "1"}}
	info := functions.SecretInfo{Name: "TOKEN", UpdatedAt: at}
	want, reply := "", any(nil)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if got := r.Method + " " + r.URL.Path + " " + string(body); got != want || err != nil {
			t.Errorf("request %s, %v; want %s", got, err, want)
		}
		if reply == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			t.Error(err)
		}
	})
	check := func(got, wanted any, err error) {
		t.Helper()
		if diff := cmp.Diff(wanted, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	want, reply = "GET /v1/functions/hello.team-a/config ", config
	gotConfig, err := c.Config(t.Context(), id)
	check(gotConfig, config, err)
	want = `PATCH /v1/functions/hello.team-a/config {"set":{"A":"1"},"remove":["B"]}`
	gotConfig, err = c.ChangeConfig(t.Context(), id, map[string]string{"A": "1"}, []string{"B"})
	check(gotConfig, config, err)
	want, reply = "GET /v1/functions/hello.team-a/secrets ", map[string]any{"secrets": []functions.SecretInfo{info}}
	list, err := c.Secrets(t.Context(), id)
	check(list, []functions.SecretInfo{info}, err)
	want, reply = `PUT /v1/functions/hello.team-a/secrets/TOKEN {"value":"hunter2"}`, info
	gotInfo, err := c.SetSecret(t.Context(), id, "TOKEN", functions.NewSecret("hunter2"))
	check(gotInfo, info, err)
	want, reply = "DELETE /v1/functions/hello.team-a/secrets/TOKEN ", nil
	check(nil, nil, c.UnsetSecret(t.Context(), id, "TOKEN"))
	want, reply = "POST /v1/secrets/rotate ", map[string]int{"secrets": 3}
	count, err := c.RotateSecrets(t.Context())
	check(count, 3, err)
	// What is no name never becomes part of a path.
	if _, err := c.SetSecret(t.Context(), id, "../x", functions.NewSecret("hunter2")); !wire.HasCode(err, wire.CodeInvalid) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
	if err := c.UnsetSecret(t.Context(), id, ""); !wire.HasCode(err, wire.CodeInvalid) {
		t.Errorf("error %v", err)
	}
}
