package docker

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// TestWhoseFault: a failure of the engine's own may pass; what it was asked wrongly stays
// wrong.
func TestWhoseFault(t *testing.T) {
	for status, passes := range map[int]bool{
		http.StatusInternalServerError: true, http.StatusServiceUnavailable: true,
		http.StatusBadRequest: false, http.StatusNotFound: false, http.StatusConflict: false,
	} {
		engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"message":"the reason"}`))
		}))
		t.Cleanup(engine.Close)
		cli, err := client.NewClientWithOpts(client.WithHost("tcp://"+strings.TrimPrefix(engine.URL, "http://")), client.WithVersion("1.41"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cli.Close() })
		err = (&Sandbox{client: cli}).wrapStart(cli.ContainerStart(t.Context(), "c", container.StartOptions{}))
		if errors.Is(err, sandbox.ErrUnavailable) != passes || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("%d: %v", status, err)
		}
	}
}
