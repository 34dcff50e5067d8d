package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/wire"
)

// s3 is the one S3 server of this process; set before any test runs.
var s3 *s3server.Server

func TestMain(m *testing.M) {
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }))
}

// runner is a double of what runs build containers.
type runner func(ctx context.Context, job Job) (string, error)

func (r runner) Run(ctx context.Context, job Job, out io.Writer) error {
	output, err := r(ctx, job)
	_, _ = io.WriteString(out, output) // it never fails
	return err
}

// workshop is a builder over a real NATS and S3.
type workshop struct {
	*Builder
	t      *testing.T
	conn   *bus.Conn // that of who asks
	store  *blob.Store
	engine *engine
}

func newWorkshop(t *testing.T, run runner, edit ...func(*Config)) *workshop {
	t.Helper()
	server, store := embedtest.NATS(t, t.TempDir()), embedtest.Store(t, s3)
	cfg := Config{DataDir: t.TempDir(), GoRoot: toolchain(t), GoEnv: []string{"GOPROXY=https://proxy.example"}, Timeout: time.Minute, DiskBytes: 1 << 30, MaxBuilds: 2}
	for _, e := range edit {
		e(&cfg)
	}
	if run == nil {
		run = func(_ context.Context, job Job) (string, error) {
			t.Errorf("job %+v", job)
			return "", errors.New("no job was expected")
		}
	}
	conn, made := embedtest.Connect(t, server), &engine{}
	rootStore, err := roots.Open(t.Context(), conn, store, filepath.Join(t.TempDir(), "roots"), embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{t: t, conn: embedtest.Connect(t, server), store: store, engine: made, Builder: New(cfg, Deps{
		Conn: conn, Store: store, Runner: standard{run}, Images: made, Roots: rootStore,
		Metrics: prometheus.NewRegistry(), Log: embedtest.Discard(),
	})}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // again: nothing happens
			if err := w.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
		left, err := os.ReadDir(filepath.Join(cfg.DataDir, "work"))
		if len(left) != 0 || err != nil {
			t.Errorf("work folders %v are left, %v", left, err)
		}
	})
	return w
}

// toolchain is a Go toolchain of a version that nobody built with before: the tests of a
// process share one S3, and with it what was built.
func toolchain(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "VERSION"), []byte(rand.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ask sends a request and waits for the end of its answer.
func (w *workshop) ask(req wire.BuildRequest) wire.BuildReply {
	w.t.Helper()
	pieces := w.follow(req)
	last := pieces[len(pieces)-1]
	if last.Reply == nil {
		w.t.Errorf("the answer ends with %+v", last)
		return wire.BuildReply{}
	}
	return *last.Reply
}

// follow sends a request and returns its whole answer.
func (w *workshop) follow(req wire.BuildRequest) (pieces []wire.BuildProgress) {
	w.t.Helper()
	if req.Namespace == "" {
		req.Namespace = "default"
	}
	data, err := json.Marshal(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.followRaw(data)
}

func (w *workshop) followRaw(data []byte) (pieces []wire.BuildProgress) {
	w.t.Helper()
	answers, err := w.conn.Ask(wire.BuildSubject, data)
	if err != nil {
		w.t.Error(err)
		return []wire.BuildProgress{{}}
	}
	defer answers.Close()
	for {
		var piece wire.BuildProgress
		m, err := answers.Next(context.Background(), time.Minute)
		if err == nil {
			err = errors.Join(m.Respond(nil), json.Unmarshal(m.Data, &piece))
		}
		pieces = append(pieces, piece)
		if err != nil {
			w.t.Error(err)
		}
		if err != nil || piece.Again || piece.Reply != nil {
			return pieces
		}
	}
}

func (w *workshop) request(subject string, req, reply any) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	data, err := json.Marshal(req)
	if err == nil {
		data, err = w.conn.Request(ctx, subject, data)
	}
	if err == nil {
		err = json.Unmarshal(data, reply)
	}
	if err != nil {
		w.t.Error(err)
	}
}

// files are those of a bundle; a name with * at its end is executable.
type files map[string]string

// upload stores a bundle of files in an order, with a time of change.
func (w *workshop) upload(all files, names []string, changed time.Time) string {
	w.t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	archive := tar.NewWriter(z)
	for _, name := range names {
		mode := int64(0o600)
		if strings.HasSuffix(name, "*") {
			mode = 0o700
		}
		header := &tar.Header{Name: strings.TrimSuffix(name, "*"), Size: int64(len(all[name])), Mode: mode, ModTime: changed, Typeflag: tar.TypeReg}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = io.WriteString(archive, all[name])
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		w.t.Fatal(err)
	}
	key := wire.BundleKey(rand.Text())
	if err := w.store.PutBytes(w.t.Context(), key, packed.Bytes(), "application/gzip"); err != nil {
		w.t.Fatal(err)
	}
	return key
}

// build uploads files and asks for their artifact.
func (w *workshop) build(all files) wire.BuildReply {
	w.t.Helper()
	return w.ask(wire.BuildRequest{ID: "b1", Bundle: w.upload(all, slices.Sorted(maps.Keys(all)), time.Unix(1, 0))})
}

// artifact lists the files of an artifact, those that are executable with a *.
func (w *workshop) artifact(reply wire.BuildReply) files {
	w.t.Helper()
	if reply.Error != nil {
		w.t.Fatal(reply.Error)
	}
	data, err := w.store.GetBytes(w.t.Context(), wire.CodeKey(reply.Code), wire.MaxBundlePacked)
	if err != nil || int64(len(data)) != reply.CodeBytes || !reply.Code.Valid() {
		w.t.Fatalf("artifact %s: %d bytes of %d, %v", reply.Code, len(data), reply.CodeBytes, err)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	found := files{}
	for archive := tar.NewReader(z); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			w.t.Fatal(err)
		}
		name := header.Name
		if header.Mode&0o111 != 0 {
			name += "*"
		}
		found[name] = string(text)
	}
}

func wantFailure(t *testing.T, reply wire.BuildReply, code wire.Code, text string) {
	t.Helper()
	if e := reply.Error; e == nil || e.Code != code || !strings.Contains(e.Message, text) || reply.Code != "" {
		t.Errorf("%+v: %v; want %s with %q", reply, e, code, text)
	}
}

const (
	python   = "name: x\nruntime: python\nhandler: app.handler\n"
	node     = "name: x\nruntime: node\nhandler: src/index.handler\n"
	provided = "name: x\nruntime: provided\n"
	golang   = "name: x\nruntime: go\n"
)

func TestArtifactIsTheBundle(t *testing.T) {
	w := newWorkshop(t, nil)
	all := files{"dayfly.yaml": python, "app.py": "def handler(e, c): pass\n", "tool.sh*": "#!/bin/sh\n"}
	reply := w.build(all)
	if diff := cmp.Diff(all, w.artifact(reply)); diff != "" || string(reply.Manifest) != python || reply.Log != "" {
		t.Errorf("manifest %q, log %q, files (-want +got):\n%s", reply.Manifest, reply.Log, diff)
	}
}

// TestArtifactIsReproducible: the same files are the same artifact, whoever packed
// them and when.
func TestArtifactIsReproducible(t *testing.T) {
	w := newWorkshop(t, nil)
	all := files{"dayfly.yaml": python, "app.py": "x = 1\n", "lib/a.py": "", "lib/b.py": "b"}
	names := slices.Sorted(maps.Keys(all))
	first := w.ask(wire.BuildRequest{Bundle: w.upload(all, names, time.Unix(1, 0))})
	slices.Reverse(names)
	second := w.ask(wire.BuildRequest{Bundle: w.upload(all, names, time.Unix(1_700_000_000, 0))})
	if first.Error != nil || second.Error != nil || first.Code != second.Code || first.CodeBytes != second.CodeBytes {
		t.Errorf("%+v\n%+v", first, second)
	}
	all["app.py"] = "x = 2\n"
	if third := w.build(all); third.Code == first.Code {
		t.Error("other files are the same artifact")
	}
}

// TestChecks are those of every runtime: what cannot run is refused before it is
// deployed, with what to do.
func TestChecks(t *testing.T) {
	w := newWorkshop(t, nil)
	for name, test := range map[string]struct {
		bundle files
		want   string // empty: it is fine
		log    string
	}{
		"python file":          {files{"dayfly.yaml": python, "app.py": ""}, "", ""},
		"python package":       {files{"dayfly.yaml": python, "app/__init__.py": ""}, "", ""},
		"python missing":       {files{"dayfly.yaml": python, "main.py": ""}, "the bundle has no app.py or app/__init__.py; add it, or name another handler", ""},
		"python is a folder":   {files{"dayfly.yaml": python, "app.py/x": ""}, "the bundle has no app.py", ""},
		"node module":          {files{"dayfly.yaml": node, "src/index.mjs": ""}, "", ""},
		"node common":          {files{"dayfly.yaml": node, "src/index.cjs": ""}, "", ""},
		"node missing":         {files{"dayfly.yaml": node, "index.js": ""}, "src/index.mjs or src/index.js or src/index.cjs", ""},
		"node needs nothing":   {files{"dayfly.yaml": node, "src/index.js": "", "package.json": `{"type": "module"}`, "package-lock.json": "{}"}, "", ""},
		"python needs nothing": {files{"dayfly.yaml": python, "app.py": "", "requirements.txt": "# none\n"}, "", ""},
		"provided":             {files{"dayfly.yaml": provided, "bootstrap*": "#!/bin/sh\n"}, "", ""},
		"provided missing":     {files{"dayfly.yaml": provided}, `no file "bootstrap"; add an executable`, ""},
		"provided no exec":     {files{"dayfly.yaml": provided, "bootstrap": "#!/bin/sh\n"}, "run chmod +x bootstrap", ""},
		"no manifest":          {files{"app.py": ""}, functions.ManifestName, ""},
		"bad manifest":         {files{"dayfly.yaml": "name: x\nruntim: python\n"}, "runtim", ""},
		"large manifest":       {files{"dayfly.yaml": python + strings.Repeat("#", 1<<20)}, functions.ManifestName, ""},
		"manifest climbing":    {files{"dayfly.yaml": python, "../app.py": ""}, "../app.py", ""},
	} {
		t.Run(name, func(t *testing.T) {
			reply := w.build(test.bundle)
			if test.want != "" {
				wantFailure(t, reply, wire.CodeInvalid, test.want)
			} else if reply.Error != nil || !reply.Code.Valid() {
				t.Errorf("%v", reply.Error)
			}
			if !strings.Contains(reply.Log, test.log) {
				t.Errorf("log %q", reply.Log)
			}
		})
	}
}

// compile is a double of the Go compiler.
func compile(job Job) error {
	return os.WriteFile(filepath.Join(job.Folders[sourceMount].Path, "bootstrap"), []byte("ELF"), 0o755)
}

func TestGo(t *testing.T) {
	var mu sync.Mutex
	var jobs []Job
	w := newWorkshop(t, func(_ context.Context, job Job) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		jobs = append(jobs, job)
		for path, folder := range job.Folders {
			if _, err := os.Stat(folder.Path); err != nil && path != goMount {
				t.Error(err)
			}
		}
		if job.Network {
			return "fetched\n", nil
		}
		return "compiled\n", compile(job)
	})
	for name, test := range map[string]struct {
		bundle files
		jobs   []string // the scripts
		flags  string
		log    string
	}{
		"alone":   {files{"main.go": "package main"}, []string{goCompile}, "GOFLAGS=-mod=mod", "compiled\n"},
		"modules": {files{"main.go": "package main", "go.mod": "module x\nrequire example.com/y v1.0.0\n"}, []string{goFetch, goCompile}, "GOFLAGS=-mod=mod", "fetched\ncompiled\n"},
		"vendored": {
			files{"main.go": "package main", "go.mod": "module x\nrequire example.com/y v1.0.0\n", "vendor/modules.txt": "# y", "vendor/y/y.go": "package y"},
			[]string{goCompile}, "GOFLAGS=-mod=vendor", "compiled\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			jobs = nil
			test.bundle["dayfly.yaml"], test.bundle["static/index.html"], test.bundle["sub/x.go"] = golang, "<html>", "package sub"
			reply := w.build(test.bundle)
			if reply.Arch != runtime.GOARCH {
				t.Errorf("made for %q", reply.Arch)
			}
			// Source goes, other files stay.
			if diff := cmp.Diff(files{"dayfly.yaml": golang, "static/index.html": "<html>", "bootstrap*": "ELF"}, w.artifact(reply)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if reply.Log != test.log {
				t.Errorf("log %q", reply.Log)
			}
			var scripts []string
			for _, job := range jobs {
				scripts = append(scripts, job.Script)
				if online := job.Script == goFetch; job.Network != online || slices.Contains(job.Env, "GOPROXY=off") == online ||
					slices.Contains(job.Env, "GOPROXY=https://proxy.example") != online {
					t.Errorf("network %t with %q", job.Network, job.Env)
				}
				if !job.Folders[sourceMount].Writable || job.Folders[goMount].Writable || job.Folders[sdkMount].Writable {
					t.Errorf("folders %+v", job.Folders)
				}
			}
			if diff := cmp.Diff(test.jobs, scripts); diff != "" {
				t.Errorf("jobs (-want +got):\n%s", diff)
			}
			if last := jobs[len(jobs)-1]; !slices.Contains(last.Env, test.flags) {
				t.Errorf("environment %q lacks %s", last.Env, test.flags)
			}
		})
	}
}

func TestFailedJobs(t *testing.T) {
	bundle := files{"dayfly.yaml": golang, "main.go": "package main", "go.mod": "module x\nrequire example.com/y v1.0.0\n"}
	for name, test := range map[string]struct {
		fetch, compile error
		output         string
		code           wire.Code
		want           string
	}{
		// The tool's own words come first, as they name file and line.
		"compile":      {nil, ErrJob, "\n./main.go:1:1: syntax error\n", wire.CodeInvalid, "./main.go:1:1: syntax error\ngo build failed"},
		"fetch":        {ErrJob, nil, "no module\n", wire.CodeInvalid, "no module\ngo modules could not be fetched"},
		"platform":     {nil, errors.New("no containers"), "", wire.CodeInternal, "go build failed: no containers"},
		"no binary":    {nil, nil, "", wire.CodeInvalid, "must be main"},
		"much is said": {nil, ErrJob, strings.Repeat("é", maxLog), wire.CodeInvalid, "a part of the build log was left out"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkshop(t, func(_ context.Context, job Job) (string, error) {
				if job.Network {
					return test.output, test.fetch
				}
				return test.output, test.compile
			})
			reply := w.build(bundle)
			wantFailure(t, reply, test.code, test.want)
			if len(reply.Error.Message) > maxLog+200 {
				t.Errorf("%d bytes", len(reply.Error.Message))
			}
		})
	}
	w := newWorkshop(t, nil, func(c *Config) { c.GoRoot = "" })
	wantFailure(t, w.build(bundle), wire.CodeInvalid, "no Go toolchain; start it with --go-root")
}

func TestBuildTakesTooLong(t *testing.T) {
	w := newWorkshop(t, func(ctx context.Context, _ Job) (string, error) {
		<-ctx.Done()
		return "half a build", context.Cause(ctx)
	}, func(c *Config) { c.Timeout = 3 * time.Second })
	wantFailure(t, w.build(files{"dayfly.yaml": golang, "main.go": "package main"}), wire.CodeInvalid, "half a build\ngo build failed: the build took longer than 3s")
}

func TestBadRequests(t *testing.T) {
	w := newWorkshop(t, nil)
	wantFailure(t, w.ask(wire.BuildRequest{Bundle: "bundles/nothing"}), wire.CodeUnavailable, "bundles/nothing")
	if err := w.store.PutBytes(t.Context(), "bundles/bad", []byte("no archive"), "application/gzip"); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, w.ask(wire.BuildRequest{Bundle: "bundles/bad"}), wire.CodeInvalid, "")
	pieces := w.followRaw([]byte("{"))
	wantFailure(t, *pieces[len(pieces)-1].Reply, wire.CodeInvalid, "malformed build request")
	wantFailure(t, w.ask(wire.BuildRequest{Bundle: "bundles/bad", Namespace: "../etc"}), wire.CodeInvalid, "malformed build request")
}

func TestNeedsModules(t *testing.T) {
	for mod, want := range map[string]bool{
		"":                      false,
		"module x\n\ngo 1.26\n": false,
		"require github.com/dayfly-run/dayfly v0.1.0":         false,
		"require example.com/y v1.2.3":                        true,
		"require example.com/y v1.2.3 // indirect":            true,
		"// require example.com/y v1.2.3":                     false,
		"require (\n\texample.com/y v1.2.3\n)":                true,
		"require (\n\tgithub.com/dayfly-run/dayfly v0.1.0\n)": false,
		"toolchain go1.26.1":                                  false,
		"exclude example.com/y v1.2.3":                        false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := needsModules(dir); got != want {
			t.Errorf("%q needs modules: %t", mod, got)
		}
		if err := os.Mkdir(filepath.Join(dir, "vendor"), 0o700); err != nil {
			t.Fatal(err)
		}
		if needsModules(dir) {
			t.Errorf("%q needs modules although they are vendored", mod)
		}
	}
	if needsModules(t.TempDir()) {
		t.Error("no go.mod needs modules")
	}
}

// jam is a runner that waits until it is let go or its build ends.
func jam() (run runner, begun chan string, goOn chan struct{}) {
	begun, goOn = make(chan string, 100), make(chan struct{})
	return func(ctx context.Context, job Job) (string, error) {
		begun <- job.ID
		select {
		case <-goOn:
			return "", compile(job)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}, begun, goOn
}

// TestStopWaits: what runs is finished, what waits is given back.
func TestStopWaits(t *testing.T) {
	run, begun, goOn := jam()
	w := newWorkshop(t, run, func(c *Config) { c.MaxBuilds = 1 })
	key := w.upload(files{"dayfly.yaml": golang, "main.go": "package main"}, []string{"dayfly.yaml", "main.go"}, time.Unix(1, 0))
	answers := map[string]chan wire.BuildProgress{"running": make(chan wire.BuildProgress, 1), "waiting": make(chan wire.BuildProgress, 1)}
	ask := func(id string) {
		pieces := w.follow(wire.BuildRequest{ID: id, Bundle: key})
		answers[id] <- pieces[len(pieces)-1]
	}
	go ask("running")
	if id := embedtest.Receive(t, begun); !strings.HasPrefix(id, "running-") {
		t.Errorf("began with %s", id)
	}
	go ask("waiting")
	embedtest.Eventually(t, "a request waits", func() bool { return len(w.queue) == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- w.Stop(t.Context()) }()
	if last := embedtest.Receive(t, answers["waiting"]); !last.Again || last.Reply != nil {
		t.Errorf("what waited ended with %+v", last)
	}
	select {
	case err := <-stopped:
		t.Errorf("stopped while a build ran: %v", err)
	default:
	}
	close(goOn)
	if last := embedtest.Receive(t, answers["running"]); last.Reply == nil || last.Reply.Error != nil {
		t.Errorf("what ran ended with %+v", last)
	}
	if err := embedtest.Receive(t, stopped); err != nil {
		t.Error(err)
	}
}

// TestStopLosesPatience: a build that does not end is ended, and is another builder's.
func TestStopLosesPatience(t *testing.T) {
	run, begun, _ := jam()
	w := newWorkshop(t, run)
	all := files{"dayfly.yaml": golang, "main.go": "package main"}
	key, answer := w.upload(all, slices.Sorted(maps.Keys(all)), time.Unix(1, 0)), make(chan []wire.BuildProgress, 1)
	go func() { answer <- w.follow(wire.BuildRequest{ID: "b", Bundle: key}) }()
	embedtest.Receive(t, begun)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Stop(ctx); err != nil {
		t.Error(err)
	}
	if pieces := embedtest.Receive(t, answer); !pieces[len(pieces)-1].Again {
		t.Errorf("the answer is %+v", pieces)
	}
}

// TestQueueIsBounded: what is over the bound is another builder's.
func TestQueueIsBounded(t *testing.T) {
	run, begun, goOn := jam()
	w := newWorkshop(t, run, func(c *Config) { c.MaxBuilds = 1 })
	key := w.upload(files{"dayfly.yaml": golang, "main.go": "package main"}, []string{"dayfly.yaml", "main.go"}, time.Unix(1, 0))
	var accepted sync.WaitGroup
	ask := func() {
		if reply := w.ask(wire.BuildRequest{ID: "b", Bundle: key}); reply.Error != nil {
			t.Error(reply.Error)
		}
	}
	accepted.Go(ask)
	embedtest.Receive(t, begun)
	for range maxQueued {
		accepted.Go(ask)
	}
	embedtest.Eventually(t, "the queue is full", func() bool { return len(w.queue) == maxQueued })
	pieces := w.follow(wire.BuildRequest{ID: "more", Bundle: key})
	if last := pieces[len(pieces)-1]; !last.Again || last.Reply != nil {
		t.Errorf("a full builder answers %+v", last)
	}
	var reply wire.RebuildReply
	w.request(wire.RebuildSubject, wire.RebuildRequest{Root: "python"}, &reply)
	if e := reply.Error; e == nil || e.Code != wire.CodeThrottled || e.RetryAfterMillis == 0 || !strings.Contains(e.Message, "16 builds are waiting already") {
		t.Errorf("a root is rebuilt by a full builder: %+v", reply)
	}
	close(goOn)
	accepted.Wait()
}

// TestLogIsLive: what a build prints is heard while it runs, a character never in two
// pieces.
func TestLogIsLive(t *testing.T) {
	goOn, said := make(chan struct{}), make(chan struct{})
	w := newWorkshop(t, nil)
	w.deps.Runner = standard{live(func(out io.Writer, job Job) error {
		_, _ = io.WriteString(out, "one\n\xe2\x82")
		close(said)
		<-goOn
		_, _ = io.WriteString(out, "\xac\ntwo\xff\n")
		return compile(job)
	})}
	key := w.upload(files{"dayfly.yaml": golang, "main.go": ""}, []string{"dayfly.yaml", "main.go"}, time.Unix(1, 0))
	data, err := json.Marshal(wire.BuildRequest{Bundle: key, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	answers, err := w.conn.Ask(wire.BuildSubject, data)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	var text string
	for {
		m, err := answers.Next(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var piece wire.BuildProgress
		if err := errors.Join(m.Respond(nil), json.Unmarshal(m.Data, &piece)); err != nil {
			t.Fatal(err)
		}
		if text += piece.Log; text == "one\n" && piece.Log != "" { // the build still runs: nobody let it go on
			embedtest.Receive(t, said)
			close(goOn)
		}
		if piece.Reply != nil {
			if want := "one\n€\ntwo\uFFFD\n"; text != want || piece.Reply.Log != want || piece.Reply.Error != nil {
				t.Errorf("heard %q, and at the end %+v", text, piece.Reply)
			}
			return
		}
	}
}

// live is a runner that prints while it runs.
type live func(out io.Writer, job Job) error

func (l live) Run(_ context.Context, job Job, out io.Writer) error { return l(out, job) }

// TestDesertedBuildEnds: nobody waits for it any more.
func TestDesertedBuildEnds(t *testing.T) {
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	w := newWorkshop(t, func(ctx context.Context, _ Job) (string, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return "", context.Cause(ctx)
	})
	key := w.upload(files{"dayfly.yaml": golang, "main.go": ""}, []string{"dayfly.yaml", "main.go"}, time.Unix(1, 0))
	data, err := json.Marshal(wire.BuildRequest{Bundle: key, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	answers, err := w.conn.Ask(wire.BuildSubject, data)
	if err != nil {
		t.Fatal(err)
	}
	embedtest.Receive(t, begun)
	answers.Close()
	if err := embedtest.Receive(t, ended); !errors.Is(err, errDeserted) {
		t.Errorf("ended because %v", err)
	}
}

// TestStartClearsWhatWasLeft: what an earlier run left is gone.
func TestStartClearsWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "work", "build-1", "source"), 0o700); err != nil {
		t.Fatal(err)
	}
	newWorkshop(t, nil, func(c *Config) { c.DataDir = dir })
	if left, err := os.ReadDir(filepath.Join(dir, "work")); len(left) != 0 || err != nil {
		t.Errorf("left %v, %v", left, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := New(Config{DataDir: file, MaxBuilds: 1}, Deps{Metrics: prometheus.NewRegistry(), Log: embedtest.Discard()})
	if err := b.Start(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file as folder: %v", err)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Errorf("stop of what did not start: %v", err)
	}
}
