package cli_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/cmd/dayfly/cli"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dayfly": func() { os.Exit(run()) }})
}

// onTerminal is set by scripts that want stdout and stderr to be the terminal;
// testscript itself connects only stdin to it.
const onTerminal = "TEST_ON_TERMINAL"

// run is dayfly's main, without the roles.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := newRoot()
	out, errOut := os.Stdout, os.Stderr
	if os.Getenv(onTerminal) != "" {
		terminal, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 125
		}
		out, errOut = terminal, terminal
	}
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err != nil {
		cli.PrintError(errOut, err)
	}
	return cli.ExitCode(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{Use: "dayfly"}
	root.AddCommand(&cobra.Command{Use: "up", GroupID: cli.GroupPlatform, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }})
	root.AddCommand(cli.Commands(cli.Options{Version: "v1.2.3"})...)
	cli.Prepare(root)
	return root
}

func TestScripts(t *testing.T) {
	type apiKey struct{}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			api := newFakeAPI(t)
			server := httptest.NewServer(api.mux)
			env.Defer(server.Close)
			env.Values[apiKey{}] = api
			closed := httptest.NewServer(http.NotFoundHandler())
			closed.Close()
			env.Setenv("DAYFLY_URL", server.URL)
			env.Setenv("CLOSED_URL", closed.URL)
			env.Setenv("TZ", "UTC")
			// A program built with -race otherwise waits a second before it exits.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("TERM", "xterm")
			env.Setenv("GOOD", string(goodCall))
			env.Setenv("BAD", string(badCall))
			env.Setenv("DEAD", string(deadCall))
			env.Setenv("WAITING", string(waitingCall))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE command args... runs a command that must exit so.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got, err := 0, ts.Exec(args[1], args[2:]...)
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					got = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
			// freeze makes the server's times constant.
			"freeze": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value(apiKey{}).(*fakeAPI).freeze()
			},
			// stored NAME TEXT checks a secret's value on the server; @FILE is that file's.
			"stored": func(ts *testscript.TestScript, _ bool, args []string) {
				want := args[1]
				if file, ok := strings.CutPrefix(want, "@"); ok {
					want = ts.ReadFile(file)
				}
				if got := ts.Value(apiKey{}).(*fakeAPI).stored(args[0]); got != want {
					ts.Fatalf("%s is %q, want %q", args[0], got, want)
				}
			},
			// expand FILE writes the environment's values into a golden file.
			"expand": func(ts *testscript.TestScript, _ bool, args []string) {
				content := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(content), 0o600))
			},
			// large FILE BYTES writes a file of that size.
			"large": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.ParseInt(args[1], 10, 64)
				ts.Check(err)
				// A JSON string of that size, quotes included.
				text := `"` + strings.Repeat("x", int(n)-2) + `"`
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
			},
			"noise": writeNoise,
			// stdout2env NAME puts what the last command printed into the environment.
			"stdout2env": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
			},
			"zip":   writeZip,
			"targz": writeTarball,
		},
	})
}

// TestFollowEndsWithTheContext: Ctrl-C is a good end of `logs -f`.
func TestFollowEndsWithTheContext(t *testing.T) {
	server := httptest.NewServer(newFakeAPI(t).mux)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := newRoot()
	read, write := io.Pipe()
	root.SetOut(write)
	root.SetArgs([]string{"logs", "thumbnail", "-f", "--url", server.URL})
	result := make(chan error, 1)
	go func() { result <- errors.Join(root.ExecuteContext(ctx), write.Close()) }()

	lines := bufio.NewScanner(read)
	if !lines.Scan() || lines.Text() == "" {
		t.Fatalf("no line: %v", lines.Err())
	}
	cancel()
	for lines.Scan() { // what was under way may still come
	}
	if err := <-result; err != nil {
		t.Errorf("error = %v, want none", err)
	}
}

// TestEveryCommandHasAGroup: the root's help has no heap of the rest.
func TestEveryCommandHasAGroup(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		if cmd.GroupID == "" && !cmd.Hidden {
			t.Errorf("%s is in no group; add it to the table of groups", cmd.Name())
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, cli.ExitOK},
		{errors.New("anything"), cli.ExitFailed},
		{context.Canceled, cli.ExitFailed},
		{wire.Errorf(wire.CodeInternal, "x"), cli.ExitFailed},
		{wire.Errorf(wire.CodeUnauthorized, "x"), cli.ExitFailed},
		{wire.Errorf(wire.CodeConflict, "x"), cli.ExitFailed},
		{wire.Errorf("new.code", "x"), cli.ExitFailed},
		{&client.ResponseError{Status: http.StatusNotFound}, cli.ExitFailed},
		{wire.Errorf(wire.CodeInvalid, "x"), cli.ExitUsage},
		{wire.Errorf(wire.CodeTooLarge, "x"), cli.ExitUsage},
		{wire.Errorf(wire.CodeNotFound, "x"), cli.ExitNotFound},
		{wire.Errorf(wire.CodeFunctionError, "x"), cli.ExitFunction},
		{wire.Errorf(wire.CodeFunctionTimeout, "x"), cli.ExitFunction},
		{wire.Errorf(wire.CodeFunctionOutOfMemory, "x"), cli.ExitFunction},
		{wire.Errorf(wire.CodeFunctionExited, "x"), cli.ExitFunction},
		{wire.Errorf(wire.CodeThrottled, "x"), cli.ExitRetry},
		{wire.Errorf(wire.CodeNoCapacity, "x"), cli.ExitRetry},
		{wire.Errorf(wire.CodeUnavailable, "x"), cli.ExitRetry},
		{&client.UnreachableError{Err: errors.New("refused")}, cli.ExitRetry},
		{&client.ResponseError{Status: http.StatusBadGateway}, cli.ExitRetry},
		{fmt.Errorf("while invoking: %w", wire.Errorf(wire.CodeNotFound, "x")), cli.ExitNotFound},
	} {
		if got := cli.ExitCode(test.err); got != test.want {
			t.Errorf("ExitCode(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}
