package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// edit replaces a text in a file, which must have it.
func edit(t *testing.T, file, from, to string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), from) {
		t.Fatalf("%s has no %q:\n%s", file, from, data)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(data), from, to)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What the commands do is the same on every sandbox, so one is enough: the quickest.

// TestNewcomersMinute is what somebody does who has never seen Dayfly: begin, edit,
// deploy, call, look at the log, break it, and go back.
func TestNewcomersMinute(t *testing.T) {
	t.Parallel()
	on(t, []sharedSetup{{"oci", world.oci}}, func(t *testing.T, p *platform) {
		t.Parallel()
		begun := time.Now()
		dir := filepath.Join(t.TempDir(), "newcomer")
		app := filepath.Join(dir, "app.py")
		p.cli(t, "init", dir).wantExit(t, 0, "newcomer is a python function", "dayfly deploy "+dir)
		edit(t, app, "Hello, ", "Ahoi, ")
		p.cli(t, "deploy", dir).wantExit(t, 0, "newcomer", "1 (live)", p.url+"/f/newcomer")
		call := func(want string) {
			t.Helper()
			if out := p.cli(t, "invoke", "newcomer", "--data", `{"name": "Ada"}`).wantExit(t, 0); strings.TrimSpace(out.stdout) != want {
				t.Errorf("the answer is %s, want %s", out.stdout, want)
			}
		}
		call(`{"message": "Ahoi, Ada!"}`)
		p.do(t, "GET", "/f/newcomer?name=Grace", nil).want(t, 200)
		eventually(t, callBound, func() error {
			out, err := p.command("logs", "newcomer")
			if err == nil && !(strings.Contains(out.stdout, "greeting Ada") && strings.Contains(out.stdout, "greeting Grace")) {
				err = fmt.Errorf("the log says %s%s", out.stdout, out.stderr)
			}
			return err
		})

		// What does not start is refused, and nothing changes.
		edit(t, app, "def handler", "import nowhere\n\n\ndef handler")
		p.cli(t, "deploy", dir).wantExit(t, 4, "nowhere", "live stays at version 1")
		call(`{"message": "Ahoi, Ada!"}`)

		// What starts and answers wrong is live, until it is taken back.
		edit(t, app, "import nowhere\n\n\n", "")
		edit(t, app, "Ahoi, ", "Go away, ")
		p.cli(t, "deploy", dir).wantExit(t, 0, "3 (live)")
		call(`{"message": "Go away, Ada!"}`)
		p.cli(t, "rollback", "newcomer").wantExit(t, 0, "newcomer")
		call(`{"message": "Ahoi, Ada!"}`)
		t.Logf("all of it took %s", time.Since(begun).Round(100*time.Millisecond))

		p.cli(t, "open", "newcomer").wantExit(t, 0, p.url+"/f/newcomer")
		// A busy machine's node may be silent for a moment.
		says := func(texts []string, command ...string) {
			t.Helper()
			eventually(t, callBound, func() error {
				out, err := p.command(command...)
				for _, text := range texts {
					if err == nil && (out.code != 0 || !strings.Contains(out.stdout, text)) {
						err = fmt.Errorf("exit code %d without %q: %s%s", out.code, text, out.stdout, out.stderr)
					}
				}
				return err
			})
		}
		says([]string{p.node, "newcomer:"}, "top")
		says([]string{"✓ NATS", "✓ S3", "✓ builder", "✓ node " + p.node}, "doctor", "--server")
		p.cli(t, "invoke", "newcomr").wantExit(t, 3, "did you mean newcomer?")
	})
}

// TestDev: what is saved can be called a moment later, and callers of the live version
// see none of it.
func TestDev(t *testing.T) {
	t.Parallel()
	on(t, []sharedSetup{{"oci", world.oci}}, func(t *testing.T, p *platform) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "workbench")
		app := filepath.Join(dir, "app.py")
		p.cli(t, "init", dir).wantExit(t, 0)
		p.cli(t, "deploy", dir).wantExit(t, 0)

		ctx, cancel := context.WithTimeout(context.Background(), callBound)
		defer cancel()
		cmd := exec.CommandContext(ctx, world.binary, "dev", dir)
		cmd.Env = append(os.Environ(), "DAYFLY_URL="+p.url)
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		cmd.Stdout, cmd.Stderr = write, write
		err = cmd.Start()
		write.Close()
		if err != nil {
			t.Fatal(err)
		}
		ended := false
		defer func() {
			if !ended {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		}()
		lines := bufio.NewScanner(read)
		await := func(text string) {
			t.Helper()
			var all []string
			for lines.Scan() {
				all = append(all, lines.Text())
				if strings.Contains(lines.Text(), text) {
					return
				}
			}
			t.Fatalf("%q was not printed, but:\n%s", text, strings.Join(all, "\n"))
		}
		call := func(ref, want string) {
			t.Helper()
			if out := p.cli(t, "invoke", ref, "--data", `{"name": "Ada"}`).wantExit(t, 0); strings.TrimSpace(out.stdout) != want {
				t.Errorf("the answer is %s, want %s", out.stdout, want)
			}
		}
		await("ready: version 2")
		call("workbench:dev", `{"message": "Hello, Ada!"}`)
		await("greeting Ada")
		edit(t, app, "Hello, ", "Ahoi, ")
		await("ready: version 3")
		call("workbench:dev", `{"message": "Ahoi, Ada!"}`)
		await("greeting Ada")
		call("workbench", `{"message": "Hello, Ada!"}`)
		edit(t, filepath.Join(dir, "dayfly.yaml"), "runtime: python", "runtime: pyton")
		await(`did you mean "python"?`)
		await("waiting for a change")
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		await("stopped; dev stays as it is")
		ended = true
		if err := cmd.Wait(); err != nil {
			t.Errorf("dev ended with %v", err)
		}
	})
}
