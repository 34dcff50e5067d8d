package e2e_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// packageIndex is a Python package index with one wheel. While it is shut, whoever asks
// waits, and is given up.
type packageIndex struct {
	wheel string
	asked chan struct{} // holds one: somebody has asked

	mu   sync.Mutex
	shut chan struct{} // guarded by mu: nil while it is open
}

// openIndex starts one at a private address, which ends with the test.
func openIndex(t *testing.T, name, module string) (index *packageIndex, url string) {
	t.Helper()
	index = &packageIndex{wheel: wheel(t, name, module), asked: make(chan struct{}, 1), shut: make(chan struct{})}
	at, err := openPlace("i", false)
	if err != nil {
		t.Fatal(err)
	}
	file := name + "-1.0-py3-none-any.whl"
	mux := http.NewServeMux()
	mux.HandleFunc("/simple/"+name+"/", func(w http.ResponseWriter, r *http.Request) {
		if index.waits(r) {
			return
		}
		_, _ = fmt.Fprintf(w, `<!DOCTYPE html><a href="/%s">%s</a>`, file, file)
	})
	mux.HandleFunc("/"+file, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, index.wheel) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(at.Listener)
	}()
	t.Cleanup(func() {
		_ = server.Close() // and those that wait
		<-served
		if err := ip("netns", "del", at.name); err != nil {
			t.Error(err)
		}
	})
	return index, "http://" + at.Addr().String() + "/simple"
}

// waits holds a request up to its end if the index is shut.
func (i *packageIndex) waits(r *http.Request) bool {
	i.mu.Lock()
	shut := i.shut
	i.mu.Unlock()
	if shut == nil {
		return false
	}
	select {
	case i.asked <- struct{}{}:
	default:
	}
	<-r.Context().Done()
	return true
}

func (i *packageIndex) open() {
	i.mu.Lock()
	i.shut = nil
	i.mu.Unlock()
}

// TestLostBuilder: a build whose builder is killed in its midst is another one's retry.
func TestLostBuilder(t *testing.T) {
	t.Parallel()
	p := private(t, "roles", options{sandbox: onOCI})
	if err := p.startRole(secondBuilder, options{}); err != nil {
		t.Fatal(err)
	}
	index, url := openIndex(t, "greeting", "def of(name):\n    return 'hello ' + name\n")
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	deployed := make(chan error, 1)
	go func() {
		d, err := p.deployFiles(files{
			"dayfly.yaml":      "name: greeter\nruntime: python\nhandler: app.handler\nnetwork: none\n",
			"app.py":           "import greeting\n\ndef handler(event, context):\n    return greeting.of(event)\n",
			"requirements.txt": "--index-url " + url + "\n--trusted-host " + host + "\ngreeting==1.0\n",
		})
		if err == nil && (d.Cached || !strings.Contains(d.BuildLog, "Successfully installed greeting-1.0")) {
			err = fmt.Errorf("built %+v", d)
		}
		deployed <- err
	}()
	select {
	case <-index.asked:
	case err := <-deployed:
		t.Fatalf("it was built without the index: %v", err)
	}
	var killed string
	for _, role := range []string{"builder", secondBuilder} {
		if work, err := filepath.Glob(filepath.Join(p.dir, role, "builder", "work", "build-*")); err != nil || len(work) > 0 {
			killed = role
		}
	}
	if killed == "" {
		t.Fatal("no builder has the build")
	}
	if err := p.procs[killed].kill(); err != nil {
		t.Fatal(err)
	}
	index.open()
	if err := <-deployed; err != nil {
		t.Fatal(err)
	}
	p.invoke(t, "greeter", "you").wantJSON(t, `"hello you"`)
	if p.procs["gateway"].log.find("a builder fell silent; the build is offered to another") == nil {
		t.Error("nobody noticed that the builder was killed")
	}
	// It clears what it left when it comes back, which the end of the platform checks.
	if err := p.startRole(killed, options{}); err != nil {
		t.Fatal(err)
	}
}

// TestGarbage: what nothing refers to goes from S3 in a running platform, and nothing else.
func TestGarbage(t *testing.T) {
	t.Parallel()
	p := private(t, "up", options{sandbox: onOCI, flags: []string{"--garbage-grace", "10s"}})
	deploy := func(name string) string {
		return p.deploy(t, files{
			"dayfly.yaml": "name: " + name + "\nruntime: python\nhandler: app.handler\n",
			"app.py":      "def handler(event, context):\n    return '" + name + "'\n",
		}).Version.Code
	}
	stays, goes := deploy("stays"), deploy("goes")
	code := func() (list []string) {
		for _, name := range p.objects(t, "code") {
			list = append(list, strings.TrimSuffix(name, ".tar.gz"))
		}
		return list
	}
	if there := code(); !slices.Contains(there, stays) || !slices.Contains(there, goes) {
		t.Fatalf("%s and %s are not in %v", stays, goes, there)
	}
	p.invoke(t, "goes", nil).wantJSON(t, `"goes"`)
	p.do(t, http.MethodDelete, "/v1/functions/goes", nil).want(t, http.StatusNoContent)
	eventually(t, patience, func() error {
		if there := code(); slices.Contains(there, goes) {
			return fmt.Errorf("%s of a function that was deleted stays: %v", goes, there)
		}
		if bundles := p.objects(t, "bundles"); len(bundles) > 0 {
			return fmt.Errorf("bundles stay: %v", bundles)
		}
		return nil
	})
	if there := code(); !slices.Contains(there, stays) {
		t.Errorf("%s of a live version is not in %v", stays, there)
	}
	// What went can be deployed again.
	deploy("goes")
	p.invoke(t, "goes", nil).wantJSON(t, `"goes"`)
	p.invoke(t, "stays", nil).wantJSON(t, `"stays"`)
}
