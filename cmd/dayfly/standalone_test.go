package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/telemetry"
)

// execute runs the program with these arguments.
func execute(ctx context.Context, args ...string) error {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	return root.ExecuteContext(ctx)
}

func TestStandaloneRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a name with spaces":             {[]string{"nats", "--name", "my server"}, "--name"},
		"peers without an address":       {[]string{"nats", "--peers", "h:6222"}, "--cluster-listen"},
		"a cluster of one":               {[]string{"nats", "--cluster-listen", "127.0.0.1:6222"}, "--peers"},
		"a peer without a port":          {[]string{"nats", "--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:6222", "--peers", "h"}, `"h"`},
		"an address that is taken":       {[]string{"nats", "--listen", taken.Addr().String()}, "in use"},
		"health where others are":        {[]string{"nats", "--listen", "127.0.0.1:0", "--http", taken.Addr().String()}, "--http"},
		"one key of two":                 {[]string{"s3", "--s3-access-key", "k"}, "--s3-secret-key"},
		"an S3 address that is taken":    {[]string{"s3", "--listen", taken.Addr().String()}, "in use"},
		"triggers without their NATS":    {[]string{"s3", "--nats", "nats://127.0.0.1:1"}, "--nats"},
		"a flag of roles only":           {[]string{"nats", "--s3-endpoint", "http://127.0.0.1:1"}, "unknown flag"},
		"a logger that there is none of": {[]string{"s3", "--log-format", "xml"}, "xml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DAYFLY_LOG_LEVEL", "error")
			t.Chdir(t.TempDir()) // the S3 server changes the folder; this changes it back
			err := execute(t.Context(), append(test.args, "--data", t.TempDir())...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v lacks %q", err, test.want)
			}
		})
	}
}

// A server by itself starts, and a signal ends it without an error.
func TestStandaloneEnds(t *testing.T) {
	// All of 127.0.0.0/8 is this machine; nobody else uses this address.
	health := fmt.Sprintf("127.%d.%d.%d:8085", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- execute(ctx, "nats", "--listen", "127.0.0.1:0", "--http", health, "--data", t.TempDir(), "--log-level", "error")
	}()
	embedtest.Eventually(t, "it is ready", func() bool {
		answer, err := http.Get("http://" + health + "/readyz")
		return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
	end()
	if err := embedtest.Receive(t, ended); err != nil {
		t.Error(err)
	}
}

func TestAFailureEndsTheProcess(t *testing.T) {
	why := errors.New("the disk is full")
	if err := awaitFailure(t.Context(), func() error { return why }); !errors.Is(err, why) {
		t.Errorf("it ended with %v", err)
	}
}

// TestAFailedEngineIsNotReady: a process with an engine of its own which has failed says
// so, and ends.
func TestAFailedEngineIsNotReady(t *testing.T) {
	nats := embedtest.NATS(t, t.TempDir())
	p := &process{engines: &engines{nats: nats}, metrics: telemetry.NewRegistry(), leaving: func() bool { return false }}
	p.started.Store(true)
	ready := func() (status int, text string) {
		w := httptest.NewRecorder()
		p.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, w.Body.String()
	}
	if status, text := ready(); status != http.StatusOK {
		t.Errorf("before: %d %s", status, text)
	}
	nats.Stop()
	if status, text := ready(); status != http.StatusServiceUnavailable || !strings.Contains(text, "NATS has ended") {
		t.Errorf("after: %d %s", status, text)
	}
	if err := awaitFailure(t.Context(), p.engines.failed); err == nil {
		t.Error("it goes on")
	}
}
