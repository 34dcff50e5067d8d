package baseline_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/load"
)

// TestMain lets the test binary be the child that it starts.
func TestMain(m *testing.M) {
	if baseline.IsChild() {
		if err := baseline.RunChild(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func stop(t *testing.T, c *baseline.Child) {
	t.Helper()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func TestServersAnswer(t *testing.T) {
	hello, err := baseline.StartHello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, hello)
	proxy, err := baseline.StartProxy(t.Context(), hello.Address.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, proxy)
	for _, addr := range []string{hello.Address.HTTP, proxy.Address.HTTP} {
		result, err := load.Once(t.Context(), load.Target{Addr: addr, Path: "/"}, 5)
		if err != nil || len(result.Latencies) != 5 {
			t.Errorf("%s: %d answers, %v", addr, len(result.Latencies), err)
		}
	}
}

func TestEnginesKeepTheirData(t *testing.T) {
	dir := t.TempDir()
	var keys [2]string
	for i := range keys {
		engines, err := baseline.StartEngines(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		at := engines.Address
		if at.NATS == "" || at.S3 == "" || at.S3AccessKey == "" {
			t.Errorf("address %+v", at)
		}
		keys[i] = at.S3SecretKey
		stop(t, engines)
	}
	if keys[0] != keys[1] {
		t.Error("the keys changed from one start to the next")
	}
}
