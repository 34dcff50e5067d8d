package fake_test

import (
	"context"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play is the process of the suite's two commands.
func play(ctx context.Context, p fake.Process) int {
	if p.Spec.Command[1] == "exit" {
		code, err := strconv.Atoi(p.Spec.Command[2])
		if err != nil {
			return 125
		}
		return code
	}
	<-ctx.Done()
	return 0
}

func TestConformance(t *testing.T) {
	t.Parallel()
	engine := fake.NewEngine()
	t.Cleanup(func() {
		if n := engine.Live(); n != 0 {
			t.Errorf("%d containers are left", n)
		}
	})
	sandboxtest.Run(t, func(_ *testing.T, owner string) sandbox.Sandbox {
		return engine.Sandbox(owner, fake.Knobs{Run: play})
	}, sandboxtest.Features{Unavailable: func(*testing.T) sandbox.Sandbox {
		return fake.New("nobody", fake.Knobs{CheckError: sandbox.ErrUnavailable, StartError: sandbox.ErrUnavailable})
	}})
}
