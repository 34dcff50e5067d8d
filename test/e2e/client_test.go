package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// callBound is more than any call of these tests may take.
const callBound = 10 * time.Minute

// answer is an HTTP response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// problem is an RFC 9457 document, as the contract describes it.
type problem struct {
	Type, Title, Code, Detail, Invocation, ErrorType, Logs string
	Status                                                 int
	Trace                                                  []string
	RetryAfterMillis                                       int64
}

// request sends a request to the platform. Headers are "Name: value".
func (p *platform) request(method, path string, body io.Reader, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, p.url+path, body)
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Add(name, value)
	}
	begun := time.Now()
	response, err := noRedirects.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, content, time.Since(begun)}, err
}

var noRedirects = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (p *platform) do(t testing.TB, method, path string, body []byte, headers ...string) answer {
	t.Helper()
	a, err := p.request(method, path, bytes.NewReader(body), headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// call makes a raw invocation with an event that becomes JSON.
func (p *platform) call(ref string, event any) (answer, error) {
	data, err := json.Marshal(event)
	if err != nil {
		return answer{}, err
	}
	return p.request(http.MethodPost, "/v1/functions/"+ref+"/invocations", bytes.NewReader(data))
}

func (p *platform) invoke(t testing.TB, ref string, event any) answer {
	t.Helper()
	a, err := p.call(ref, event)
	if err != nil {
		t.Fatalf("invoke %s: %v", ref, err)
	}
	return a
}

// want fails the test unless the status is this.
func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d instead of %d: %.2000s", a.status, status, a.body)
	}
	return a
}

// wantJSON fails the test unless the answer is 200 with that JSON.
func (a answer) wantJSON(t testing.TB, want string) {
	t.Helper()
	a.want(t, http.StatusOK)
	if got := strings.TrimSpace(string(a.body)); got != want {
		t.Fatalf("got %.500s, want %.500s", got, want)
	}
}

// decode reads the JSON of a 200.
func decode[T any](t testing.TB, a answer) (v T) {
	t.Helper()
	if a.status/100 != 2 {
		t.Fatalf("status %d: %.2000s", a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v in %.500s", err, a.body)
	}
	return v
}

// wantProblem fails the test unless the answer is a problem document with that status
// and code, and all these texts in its detail.
func (a answer) wantProblem(t testing.TB, status int, code wire.Code, texts ...string) (doc problem) {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("status %d with content type %q, want a problem: %.500s", a.status, got, a.body)
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatalf("%v in %.500s", err, a.body)
	}
	if a.status != status || doc.Status != status || doc.Code != string(code) || doc.Type != "https://dayfly.run/errors/"+string(code) {
		t.Fatalf("want %d %s, got %d: %.2000s", status, code, a.status, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(doc.Detail, text) {
			t.Errorf("the detail does not say %q: %s", text, doc.Detail)
		}
	}
	if doc.Title == "" || doc.Detail == "" {
		t.Errorf("title or detail is empty: %s", a.body)
	}
	return doc
}

func (a answer) invocation() string { return a.header.Get("Dayfly-Invocation") }

// output is what a command printed.
type output struct {
	stdout, stderr string
	code           int
}

// cli runs the binary as a user does, with DAYFLY_URL set.
func (p *platform) cli(t testing.TB, args ...string) output {
	t.Helper()
	out, err := p.command(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *platform) command(args ...string) (output, error) {
	return runCommand([]string{"DAYFLY_URL=" + p.url}, "", args...)
}

func runCommand(env []string, stdin string, args ...string) (output, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, world.binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = ctx.Err()
	}
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, err
}

// wantExit fails the test unless the command ended so and printed these texts.
func (o output) wantExit(t testing.TB, code int, texts ...string) output {
	t.Helper()
	if o.code != code {
		t.Fatalf("exit code %d instead of %d\nstdout: %s\nstderr: %s", o.code, code, o.stdout, o.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(o.stdout+o.stderr, text) {
			t.Errorf("it does not say %q\nstdout: %s\nstderr: %s", text, o.stdout, o.stderr)
		}
	}
	return o
}

// deployment is the part of a deploy's answer that tests look at.
type deployment struct {
	Version struct {
		Name, Namespace, Code string
		Number                int
	}
	URL, BuildLog string
	Live, Cached  bool
}

// files are a function's folder: text by path. A bootstrap is executable.
type files map[string]string

// folder writes the files into a new folder.
func (f files) folder(dir string) error {
	for name, text := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if filepath.Base(name) == "bootstrap" {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

// deploy deploys the files with the command line.
func (p *platform) deploy(t testing.TB, f files, flags ...string) deployment {
	t.Helper()
	d, err := p.deployFiles(f, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// aside deploys a version that does not become live, so that no instance of it is
// started before it is called, and returns its reference.
func (p *platform) aside(t testing.TB, f files) string {
	t.Helper()
	d := p.deploy(t, f, "--no-live")
	return fmt.Sprintf("%s:%d", d.Version.Name, d.Version.Number)
}

func (p *platform) deployFiles(f files, flags ...string) (d deployment, err error) {
	dir, err := os.MkdirTemp("", "function-")
	if err != nil {
		return d, err
	}
	defer os.RemoveAll(dir)
	if err := f.folder(dir); err != nil {
		return d, err
	}
	out, err := p.command(append([]string{"deploy", dir, "-o", "json"}, flags...)...)
	if err != nil {
		return d, err
	}
	if out.code != 0 {
		return d, fmt.Errorf("deploy ended with %d: %s", out.code, out.stderr)
	}
	return d, json.Unmarshal([]byte(out.stdout), &d)
}

// shared deploys a function once for all tests of a set-up and returns its name.
func (p *platform) shared(t testing.TB, manifest string, sources ...string) string {
	t.Helper()
	name := strings.TrimPrefix(strings.Split(manifest, "\n")[0], "name: ")
	p.mu.Lock()
	deploy := p.deployed[name]
	if deploy == nil {
		f := files{"dayfly.yaml": manifest}
		for _, source := range sources {
			f[strings.TrimSuffix(filepath.Base(source), ".txt")] = testdata(t, source)
		}
		deploy = sync.OnceValues(func() (deployment, error) { return p.deployFiles(f) })
		p.deployed[name] = deploy
	}
	p.mu.Unlock()
	if _, err := deploy(); err != nil {
		t.Fatalf("deploy %s: %v", name, err)
	}
	return name
}

// probe is the function that does what the event says; its timeout is 30 s.
func (p *platform) probe(t testing.TB) string {
	t.Helper()
	return p.shared(t, "name: probe\nruntime: python\nhandler: app.handler\n", "probe/app.py")
}

func testdata(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(world.repo, "test", "e2e", "testdata", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// packed makes a bundle by hand, so that it can be one that the command line would
// never make.
func packed(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for _, e := range entries {
		// What the entry holds travels in a PAX record of ours, for brevity here.
		content := e.PAXRecords["DAYFLY.content"]
		e.PAXRecords = nil
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		e.Mode, e.Size = 0o644, int64(len(content))
		if err := archive.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// entry is a regular file for packed.
func entry(name, content string) tar.Header {
	return tar.Header{Name: name, PAXRecords: map[string]string{"DAYFLY.content": content}}
}

// names lists the functions of a namespace; empty for all.
func (p *platform) names(t testing.TB, namespace string) (names []string) {
	t.Helper()
	list := decode[struct {
		Functions []struct{ Name, Namespace string }
	}](t, p.do(t, http.MethodGet, "/v1/functions?namespace="+namespace, nil))
	for _, f := range list.Functions {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

// record reads an invocation's record, which is written soon after the answer.
func (p *platform) record(t testing.TB, id string) (r wire.Record) {
	t.Helper()
	eventually(t, patience, func() error {
		a, err := p.request(http.MethodGet, "/v1/invocations/"+id, nil)
		if err != nil {
			return err
		}
		if a.status != http.StatusOK {
			return fmt.Errorf("record of %q: %d: %s", id, a.status, a.body)
		}
		return json.Unmarshal(a.body, &r)
	})
	return r
}
