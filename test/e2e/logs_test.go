package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// Point 9: what functions print and leave.

// printed reads an invocation's log once it is complete: an entry that is marked as
// the last closes it.
func (p *platform) printed(t *testing.T, name, invocation string) (text string) {
	t.Helper()
	eventually(t, patience, func() error {
		a, err := p.request(http.MethodGet, "/v1/functions/"+name+"/logs?invocation="+invocation, nil)
		if err != nil {
			return err
		}
		text = ""
		last := false
		for line := range bytes.Lines(a.body) {
			var e wire.LogEntry
			if err := json.Unmarshal(line, &e); err != nil {
				return fmt.Errorf("%w in %s", err, line)
			}
			if string(e.Invocation) != invocation || string(e.Node) != p.node || e.Instance == "" || e.Version.Name != name {
				t.Fatalf("an entry of another invocation: %+v", e)
			}
			text += e.Text
			last = e.Last
		}
		if !last {
			return fmt.Errorf("the log does not end yet: %q", text)
		}
		return nil
	})
	return text
}

func TestLogsOfAnInvocation(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		// One instance runs both, so that only what separates them can go wrong.
		name := p.shared(t, "name: printer\nruntime: python\nhandler: app.handler\nmaxInstances: 1\n", "probe/app.py")
		var ids []string
		for i := range 5 {
			lines := []string{fmt.Sprintf("first of %d", i), fmt.Sprintf("second of %d: ä", i)}
			a := p.invoke(t, name, map[string]any{"do": "print", "lines": lines}).want(t, http.StatusOK)
			ids = append(ids, a.invocation())
		}
		for i, id := range ids {
			want := fmt.Sprintf("first of %d\nsecond of %d: ä\n", i, i)
			if got := p.printed(t, name, id); got != want {
				t.Errorf("invocation %d printed %q, want %q", i, got, want)
			}
		}
		out := p.cli(t, "logs", name, "--invocation", ids[2]).wantExit(t, 0, "first of 2", "second of 2: ä")
		if strings.Contains(out.stdout, "of 1") || strings.Contains(out.stdout, "of 3") {
			t.Errorf("lines of others: %s", out.stdout)
		}
		p.cli(t, "logs", name).wantExit(t, 0, "first of 0", "first of 4")
		if a := p.do(t, http.MethodGet, "/v1/functions/"+name+"/logs?tail=1", nil).want(t, 200); bytes.Count(a.body, []byte("\n")) != 1 {
			t.Errorf("tail=1 gives %s", a.body)
		}
	})
}

// TestLogsAreBounded: a function that prints without end costs no more than the bound.
func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		lines := make([]string, 3000)
		for i := range lines {
			lines[i] = fmt.Sprintf("%06d %s", i, strings.Repeat("x", 1000))
		}
		a := p.invoke(t, name, map[string]any{"do": "print", "lines": lines}).want(t, http.StatusOK)
		text := p.printed(t, name, a.invocation())
		if len(text) > wire.MaxInvocationLog+1000 || len(text) < wire.MaxInvocationLog || !strings.Contains(text, "the rest was left out") ||
			!strings.HasPrefix(text, "000000 x") {
			t.Errorf("%d bytes, beginning with %.20q and ending with %q", len(text), text, text[max(0, len(text)-100):])
		}
	})
}

// TestFollowLogs sees a line while its invocation still runs.
func TestFollowLogs(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: followed\nruntime: python\nhandler: app.handler\n", "probe/app.py")
		p.invoke(t, name, map[string]any{"do": "print", "lines": []string{"before"}}).want(t, http.StatusOK)
		ctx, cancel := context.WithTimeout(context.Background(), callBound)
		defer cancel()
		cmd := exec.CommandContext(ctx, world.binary, "logs", name, "-f")
		cmd.Env = append(os.Environ(), "DAYFLY_URL="+p.url)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := make(chan string, 100)
		go func() {
			defer close(lines)
			for scan := bufio.NewScanner(stdout); scan.Scan(); {
				lines <- scan.Text()
			}
		}()
		await := func(text string) {
			for line := range lines {
				if strings.Contains(line, text) {
					return
				}
			}
			t.Fatalf("%q was not printed", text)
		}
		await("before")
		result := make(chan error, 1)
		go func() {
			a, err := p.call(name, map[string]any{"do": "print", "lines": []string{"while it runs"}, "then": 3})
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("status %d: %s", a.status, a.body)
			}
			result <- err
		}()
		await("while it runs")
		select {
		case err := <-result:
			t.Errorf("the line came only with the end of its invocation (%v)", err)
		default:
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		for range lines { // to the end
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("Ctrl-C ends it with %v", err)
		}
	})
}

func TestOutput(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.shared(t, "name: keeper\nruntime: python\nhandler: app.handler\nmaxInstances: 1\noutput: {store: true}\n", "probe/app.py")
		a := p.invoke(t, name, map[string]any{
			"do":    "leave",
			"files": map[string]string{"a.txt": "first", "deep/er/b c.txt": "second"},
			"links": map[string]string{"passwd": "/etc/passwd", "up": "../../..", "inner": "a.txt"},
		}).want(t, http.StatusOK)
		id := a.invocation()
		r := p.record(t, id)
		if r.State != wire.StateSucceeded || r.Output == nil || r.Output.ResultBytes != int64(len(a.body)) {
			t.Fatalf("record %+v", r)
		}
		listed := map[string]int64{}
		for _, f := range r.Output.Files {
			listed[f.Path] = f.Bytes
		}
		if len(listed) != 2 || listed["a.txt"] != 5 || listed["deep/er/b c.txt"] != 6 {
			t.Errorf("listed are %v", listed)
		}
		path := "/v1/invocations/" + id + "/output"
		if got := p.do(t, http.MethodGet, path, nil).want(t, 200); !bytes.Equal(got.body, a.body) {
			t.Errorf("the stored result is %s, the answer was %s", got.body, a.body)
		}
		if got := p.do(t, http.MethodGet, path+"/deep/er/b%20c.txt", nil).want(t, 200); string(got.body) != "second" {
			t.Errorf("the file holds %q", got.body)
		}
		for _, gone := range []string{"/passwd", "/up/etc/passwd", "/nothing"} {
			p.do(t, http.MethodGet, path+gone, nil).wantProblem(t, http.StatusNotFound, wire.CodeNotFound)
		}
		p.do(t, http.MethodGet, path+"/..%2f..%2fresult", nil).wantProblem(t, http.StatusBadRequest, wire.CodeInvalid, "../../result")
		if out := p.cli(t, "result", id, "a.txt").wantExit(t, 0); out.stdout != "first" {
			t.Errorf("dayfly result prints %q", out.stdout)
		}
		p.cli(t, "invocation", id).wantExit(t, 0, "deep/er/b c.txt", "succeeded", name)

		// The next invocation of the same instance begins with an empty folder.
		p.invoke(t, name, map[string]any{"do": "leave"}).wantJSON(t, `{"found": []}`)
		failed := p.invoke(t, name, map[string]any{"do": "leave", "files": map[string]string{"x": "y"}, "fail": true})
		failed.wantProblem(t, http.StatusBadGateway, wire.CodeFunctionError, "failed after it left files")
		p.do(t, http.MethodGet, "/v1/invocations/"+failed.invocation()+"/output", nil).wantProblem(t, http.StatusNotFound, wire.CodeNotFound)
		p.invoke(t, name, map[string]any{"do": "leave"}).wantJSON(t, `{"found": []}`)
	})
}

func TestNoOutput(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		id := p.invoke(t, p.probe(t), map[string]any{"do": "leave", "files": map[string]string{"a": "b"}}).want(t, 200).invocation()
		if r := p.record(t, id); r.Output != nil || r.State != wire.StateSucceeded {
			t.Errorf("record %+v", r)
		}
		p.do(t, http.MethodGet, "/v1/invocations/"+id+"/output", nil).wantProblem(t, http.StatusNotFound, wire.CodeNotFound, "output: {store: true}")
		unknown := "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6"
		p.do(t, http.MethodGet, "/v1/invocations/"+unknown, nil).wantProblem(t, http.StatusNotFound, wire.CodeNotFound, unknown)
		p.do(t, http.MethodGet, "/v1/invocations/nonsense", nil).wantProblem(t, http.StatusBadRequest, wire.CodeInvalid, "nonsense")
	})
}
