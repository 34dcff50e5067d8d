package docker

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// TestWhoseFault: a failure of the engine's own may pass; what it was asked wrongly stays
// wrong.
func TestWhoseFault(t *testing.T) {
	for status, passes := range map[int]bool{
		http.StatusInternalServerError: true, http.StatusServiceUnavailable: true,
		http.StatusBadRequest: false, http.StatusNotFound: false, http.StatusConflict: false,
	} {
		cli := engine(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, "the reason") })
		err := (&Sandbox{client: cli}).wrapStart(cli.ContainerStart(t.Context(), "c", container.StartOptions{}))
		if errors.Is(err, sandbox.ErrUnavailable) != passes || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// TestMiscounted: an engine that refuses to remove an empty network, and that alone, does
// not make the end of a node fail.
func TestMiscounted(t *testing.T) {
	for _, c := range []struct {
		name, inside string
		status       int
		fails        bool
	}{
		{"empty", `{}`, http.StatusForbidden, false},
		{"used", `{"1":{"Name":"somebody"}}`, http.StatusForbidden, true},
		{"another refusal", `{}`, http.StatusInternalServerError, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cli := engine(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodDelete:
					refuse(w, c.status, "network n has active endpoints")
				case strings.HasSuffix(r.URL.Path, "/networks"):
					_, _ = w.Write([]byte(`[{"Name":"n","Id":"1"}]`))
				default:
					_, _ = w.Write([]byte(`{"Name":"n","Id":"1","Containers":` + c.inside + `}`))
				}
			})
			var said strings.Builder
			e := newEgress("test/"+uuid.NewString(), cli, slog.New(slog.NewTextHandler(&said, nil)))
			if err := e.remove(t.Context()); (err != nil) != c.fails {
				t.Errorf("the end fails with %v", err)
			}
			if told := strings.Contains(said.String(), "network=n"); told == c.fails {
				t.Errorf("said is %q", said.String())
			}
		})
	}
}

// engine is a client of an engine that answers so.
func engine(t *testing.T, answer http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	cli, err := client.NewClientWithOpts(client.WithHost("tcp://"+strings.TrimPrefix(server.URL, "http://")), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"message":"` + why + `"}`))
}
