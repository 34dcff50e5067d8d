package docker

import (
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func open(t *testing.T, owner string) *Sandbox {
	t.Helper()
	s, err := New(owner, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openAt makes a sandbox of the engine at a unix socket.
func openAt(t *testing.T, owner, socket string) *Sandbox {
	t.Helper()
	s := open(t, owner)
	_ = s.client.Close()
	var err error
	if s.client, err = client.NewClientWithOpts(client.WithHost("unix://"+socket), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	s.egress = newEgress(owner, s.client)
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sandboxtest.Run(t, func(t *testing.T, owner string) sandbox.Sandbox { return open(t, owner) }, sandboxtest.Features{
		Processes: true,
		Unavailable: func(t *testing.T) sandbox.Sandbox {
			return openAt(t, "nobody", filepath.Join(t.TempDir(), "none.sock"))
		},
	})
}
