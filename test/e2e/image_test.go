package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/builder/image/imagetest"
	"github.com/dayfly-run/dayfly/wire"
)

// Functions in images of their own.

// imageBinary is the static program of testdata/image, compiled once.
var imageBinary = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, err := os.ReadFile(filepath.Join(world.repo, "test", "e2e", "testdata", "image", "main.go.txt"))
	if err == nil {
		err = files{"main.go": string(source), "go.mod": "module example.com/image\n\ngo 1.24\n"}.folder(dir)
	}
	if err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", "app", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "app"))
})

func imageProgram(t *testing.T) string {
	t.Helper()
	program, err := imageBinary()
	if err != nil {
		t.Fatal(err)
	}
	return string(program)
}

// imageArchive is an archive without a shell, of two layers.
func imageArchive(t *testing.T) imagetest.Image {
	t.Helper()
	return imagetest.Image{
		Layers: [][]byte{
			imagetest.Tar(t, imagetest.File("opt/bin/app", imageProgram(t)), imagetest.File("deleted", "x"), imagetest.Folder("srv")),
			imagetest.Tar(t, imagetest.File(".wh.deleted", "")),
		},
		Entrypoint: []string{"app"}, Cmd: []string{"one", "two"}, Env: []string{"PATH=/opt/bin", "A=of the image", "B=of the image"}, WorkingDir: "/srv",
	}
}

// seen is what the program of testdata/image tells.
type seen struct {
	Text, Args, Folder, A, B, Home, Function string
	User                                     int
	ReadOnly, Scratch, Deleted               bool
}

// deployImage deploys a function with an image and removes what the engine keeps of it
// when the whole run is over.
func (p *platform) deployImage(t *testing.T, f files, flags ...string) {
	t.Helper()
	world.sawImage(p.deploy(t, f, flags...).Version.Code)
}

func (s *suite) sawImage(code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = append(s.images, code)
}

// removeImages removes what nodes fetched into the engine, which they keep for the
// next time. It fails when builds left any.
func (s *suite) removeImages() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	errs := []error{s.docker.ask(http.MethodGet, "/images/json?all=1", nil, &all)}
	for _, i := range all {
		if strings.Contains(i.Labels[labelOwner], s.mark) {
			errs = append(errs, fmt.Errorf("image %s of %s is left", i.ID, i.Labels[labelOwner]))
		}
	}
	for _, code := range s.images {
		err := s.docker.ask(http.MethodDelete, "/images/dayfly-root-image:"+code, nil, nil)
		if err != nil && !strings.Contains(err.Error(), "No such image") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// TestImage runs an image without a shell, as any other function.
func TestImage(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		i := imageArchive(t)
		p.deployImage(t, files{
			"dayfly.yaml":       "name: imaged\nruntime: image\nimage: images/app.tar.gz\nmemory: 64Mi\ntimeout: 5s\nenv: {B: of the function}\n",
			"images/app.tar.gz": string(imagetest.Gzip(i.Layout(t))),
		})
		a := p.invoke(t, "imaged", map[string]string{"do": "look", "text": "here"})
		want := seen{
			Text: "here", Args: "app one two", Folder: "/srv", A: "of the image", B: "of the function", Home: "/tmp", Function: "imaged",
			User: 65532, ReadOnly: true, Scratch: true, Deleted: true,
		}
		if got := decode[seen](t, a); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		// What it prints belongs to the invocation. Its start was the deploy's.
		p.wantPrinted(t, "imaged", a, "the image was asked to look here\n")
		a = p.invoke(t, "imaged", map[string]string{"do": "look", "text": "again"})
		p.wantPrinted(t, "imaged", a, "the image was asked to look again\n")

		for _, c := range []struct {
			do     string
			status int
			code   wire.Code
			says   string
		}{
			{"spin", http.StatusGatewayTimeout, wire.CodeFunctionTimeout, "timeout of 5s"},
			{"hog", http.StatusBadGateway, wire.CodeFunctionOutOfMemory, "64 MiB"},
			{"exit", http.StatusBadGateway, wire.CodeFunctionExited, "status 7"},
		} {
			doc := p.invoke(t, "imaged", map[string]string{"do": c.do}).wantProblem(t, c.status, c.code, c.says)
			if !strings.Contains(doc.Logs, "the image was asked to "+c.do) {
				t.Errorf("%s: the error carries no log: %+v", c.do, doc)
			}
			p.invoke(t, "imaged", map[string]string{"do": "look"}).want(t, http.StatusOK)
		}
	})
}

func (p *platform) wantPrinted(t *testing.T, name string, a answer, want string) {
	t.Helper()
	a.want(t, http.StatusOK)
	if got := p.printed(t, name, a.invocation()); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

// TestDockerfile builds an image out of nothing, with the bundle as its context.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		p.deployImage(t, files{
			"dayfly.yaml": "name: dockerfile\nruntime: image\nhandler: other\n",
			"Dockerfile":  "FROM scratch\nCOPY bootstrap /app\nENV A=built\nWORKDIR /data\nENTRYPOINT [\"/app\"]\nCMD [\"one\"]\n",
			"bootstrap":   imageProgram(t),
		})
		got := decode[seen](t, p.invoke(t, "dockerfile", map[string]string{"do": "look"}))
		if got.Args != "/app other" || got.A != "built" || got.Folder != "/data" || got.User != 65532 || !got.ReadOnly {
			t.Errorf("got %+v", got)
		}
		_, err := p.deployFiles(files{"dayfly.yaml": "name: broken\nruntime: image\n", "Dockerfile": "FROM scratch\nCOPY nothing /\n"})
		if err == nil || !strings.Contains(err.Error(), "the Dockerfile could not be built") || !strings.Contains(err.Error(), "nothing") {
			t.Errorf("a Dockerfile that fails: %v", err)
		}
	})
}

// TestImageReference runs an image that the engine has under a name.
func TestImageReference(t *testing.T) {
	t.Parallel()
	reference := world.mark + "-image:1"
	layer := imagetest.Tar(t, imagetest.File("app", imageProgram(t)))
	if err := world.docker.load(reference, layer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.docker.ask(http.MethodDelete, "/images/"+reference, nil, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("deploy", func(t *testing.T) {
		onBoth(t, func(t *testing.T, p *platform) {
			p.deployImage(t, files{"dayfly.yaml": "name: referred\nruntime: image\nhandler: /app\nimage: " + reference + "\n"})
			got := decode[seen](t, p.invoke(t, "referred", map[string]string{"do": "look"}))
			if got.Args != "/app" || got.Folder != "/" {
				t.Errorf("got %+v", got)
			}
		})
	})
}

// TestImageThatCannotStart says at the first call what is wrong with the image.
func TestImageThatCannotStart(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *platform) {
		t.Parallel()
		i := imageArchive(t)
		i.Entrypoint = []string{"no-such-program"}
		p.deployImage(t, files{"dayfly.yaml": "name: missing\nruntime: image\nimage: a.tar\n", "a.tar": string(i.Saved(t))}, "--no-live")
		doc := p.invoke(t, "missing:1", map[string]string{}).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionExited, "status 127")
		if !strings.Contains(doc.Logs, `the image has no program "no-such-program"`) {
			t.Errorf("got %+v", doc)
		}
	})
}

// TestRebuildRuntime replaces a root under a running node: by one like it, which new
// containers get, and by one that is none, which the node does not take.
func TestRebuildRuntime(t *testing.T) {
	// No other test runs meanwhile; what they share starts.
	var starting sync.WaitGroup
	defer starting.Wait()
	for _, other := range []func() (*platform, error){world.up, world.roles} {
		starting.Go(func() { _, _ = other() }) // who uses it hears of an error
	}
	p, err := world.oci()
	if err != nil {
		t.Fatal(err)
	}
	p.showLogs(t)
	found, err := filepath.Glob(filepath.Join(p.dir, "data", "oci", "roots", "base-*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no root of the base: %v, %v", found, err)
	}
	layer, err := exec.Command("tar", "-C", found[0], "-c", "--numeric-owner", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "base.tar")
	rebuild := func(i imagetest.Image) output {
		t.Helper()
		if err := os.WriteFile(archive, i.Saved(t), 0o600); err != nil {
			t.Fatal(err)
		}
		return p.cli(t, "runtimes", "rebuild", "provided", "--from-image", archive, "-o", "json")
	}
	out := rebuild(imagetest.Image{Layers: [][]byte{layer, imagetest.Tar(t, imagetest.File("etc/rebuilt", "yes\n"))}})
	var made struct {
		Root wire.RuntimeRoot `json:"root"`
	}
	if err := json.Unmarshal([]byte(out.stdout), &made); err != nil || out.code != 0 || made.Root.Name != "base" || made.Root.Source != wire.SourceImage {
		t.Fatalf("rebuild ended with %d: %s%s", out.code, out.stdout, out.stderr)
	}
	p.awaitRecord(t, "new containers have a new root file system", made.Root.Digest)
	name := p.aside(t, files{"dayfly.yaml": "name: rebuilt\nruntime: provided\n", "bootstrap": "#!/bin/sh\ncat /etc/rebuilt\nexit 1\n"})
	doc := p.invoke(t, name, map[string]string{}).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionExited)
	if !strings.Contains(doc.Logs, "yes") {
		t.Errorf("a new container has not the new root: %+v", doc)
	}
	if list := p.cli(t, "runtimes"); list.code != 0 || !strings.Contains(list.stdout, string(made.Root.Digest[:12])) {
		t.Errorf("the list is %s%s", list.stdout, list.stderr)
	}

	rebuild(imagetest.Image{Layers: [][]byte{imagetest.Tar(t, imagetest.File("no-shell", ""))}})
	p.awaitRecord(t, "a runtime's new root file system is not used; rebuild it", "")
	name = p.aside(t, files{"dayfly.yaml": "name: rebuilt\nruntime: provided\n", "bootstrap": "#!/bin/sh\ncat /etc/rebuilt; echo still\nexit 1\n"})
	doc = p.invoke(t, name, map[string]string{}).wantProblem(t, http.StatusBadGateway, wire.CodeFunctionExited)
	if !strings.Contains(doc.Logs, "yes\nstill") {
		t.Errorf("after a root that is none: %+v", doc)
	}
	// For the tests that follow, and a node that is started again.
	rebuild(imagetest.Image{Layers: [][]byte{layer}})
}

// awaitRecord waits until a process logs a message, about a digest if one is given.
func (p *platform) awaitRecord(t *testing.T, message string, digest wire.Digest) {
	t.Helper()
	eventually(t, patience, func() error {
		for _, proc := range p.procs {
			for _, r := range proc.log.records() {
				if r["msg"] == message && (digest == "" || r["digest"] == string(digest)) {
					return nil
				}
			}
		}
		return fmt.Errorf("nobody logs %q", message)
	})
}

// load gives the engine an image of one layer.
func (d *docker) load(reference string, layer []byte) error {
	name, tag, _ := strings.Cut(reference, ":")
	url := "http://docker/images/create?fromSrc=-&repo=" + name + "&tag=" + tag
	response, err := d.client.Post(url, "application/x-tar", bytes.NewReader(layer))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || bytes.Contains(text, []byte("errorDetail"))) {
		err = fmt.Errorf("load %s: %s %s", reference, response.Status, text)
	}
	return err
}
