package e2e_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// line is between a client and the gateway. It notes which parts of bundles go through.
type line struct {
	url  string
	held chan struct{} // closed when the part that is held up has begun

	mu     sync.Mutex // guards what follows
	holds  string     // the end of the path that is held up; empty for none
	passed []string
}

func (p *platform) openLine(t *testing.T, holds string) *line {
	t.Helper()
	to, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{held: make(chan struct{}), holds: holds}
	began := sync.OnceFunc(func() { close(l.held) })
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, part, ok := strings.Cut(r.URL.Path, "/parts/"); ok {
			l.mu.Lock()
			held := part == l.holds
			l.mu.Unlock()
			if held {
				began()
				_, _ = io.Copy(io.Discard, r.Body) // a server hears that its client leaves only after that
				<-r.Context().Done()
				return
			}
			defer func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.passed = append(l.passed, part)
			}()
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

// take returns the parts that went through since it was called, and holds up none any more.
func (l *line) take() (passed []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	passed, l.passed, l.holds = l.passed, nil, ""
	slices.Sort(passed)
	return passed
}

// TestUploadGoesOn: a deploy that is killed in the midst of its upload is taken up by the
// next one, which sends only what is missing.
func TestUploadGoesOn(t *testing.T) {
	t.Parallel()
	p, err := world.up()
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 2*wire.BundlePart+wire.BundlePart/2) // it does not shrink
	_, _ = rand.Read(noise)                                    // it never fails
	dir := t.TempDir()
	if err := (files{
		"dayfly.yaml": "name: heavy\nruntime: python\nhandler: app.handler\n",
		"app.py":      "import os\n\ndef handler(event, context):\n    return os.stat('noise').st_size\n",
		"noise":       string(noise),
	}).folder(dir); err != nil {
		t.Fatal(err)
	}
	l := p.openLine(t, "2")
	cmd := exec.Command(world.binary, "deploy", dir)
	cmd.Env = append(os.Environ(), "DAYFLY_URL="+l.url)
	first, err := start("dayfly deploy", cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if it is there still
		<-first.done
	})
	select {
	case <-l.held:
	case <-first.done:
		t.Fatalf("it ended before: %s: %s", cmd.ProcessState, first.log.tail())
	}
	eventually(t, patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.passed) < 2 {
			return fmt.Errorf("it has sent the parts %v", l.passed)
		}
		return nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.done
	if first.exitCode() == 0 {
		t.Fatalf("it was deployed without a part: %s", first.log.tail())
	}
	if sent := l.take(); !slices.Equal(sent, []string{"1", "3"}) {
		t.Fatalf("the first deploy sent the parts %v: %s", sent, first.log.tail())
	}
	out, err := runCommand([]string{"DAYFLY_URL=" + l.url}, "", "deploy", dir)
	if err != nil {
		t.Fatal(err)
	}
	out.wantExit(t, 0)
	if sent := l.take(); !slices.Equal(sent, []string{"2"}) {
		t.Errorf("the second deploy sent the parts %v", sent)
	}
	a := p.invoke(t, "heavy", nil)
	if size := decode[int](t, a); size != len(noise) {
		t.Errorf("the file has %d bytes, and had %d", size, len(noise))
	}
}
