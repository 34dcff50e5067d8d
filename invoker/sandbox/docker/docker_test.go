package docker

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, owner string) *Sandbox {
	t.Helper()
	s, err := New(owner, slog.New(slog.DiscardHandler))
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
	s.egress = newEgress(owner, s.client, s.log)
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sandboxtest.Run(t, func(t *testing.T, owner string) sandbox.Sandbox {
		t.Helper()
		return open(t, owner)
	}, sandboxtest.Features{
		Processes: true,
		Unavailable: func(t *testing.T) sandbox.Sandbox {
			t.Helper()
			return openAt(t, "nobody", filepath.Join(t.TempDir(), "none.sock"))
		},
	})
}
