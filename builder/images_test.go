package builder

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/dayfly-run/dayfly/builder/image/imagetest"
	"github.com/dayfly-run/dayfly/wire"
)

// imageManifest begins a manifest that nobody built with before, see [toolchain].
func imageManifest() string { return "name: x\nruntime: image\n# " + rand.Text() + "\n" }

// engine is a double of what makes images. Its zero value is none.
type engine struct {
	build func(job ImageJob, archive io.Writer) (string, error)
	pull  func(reference string, archive io.Writer) (string, error)
}

func (e *engine) Build(_ context.Context, job ImageJob, archive io.Writer, _ int64, out io.Writer) error {
	if e.build == nil {
		return ErrNoEngine
	}
	output, err := e.build(job, archive)
	_, _ = io.WriteString(out, output) // it never fails
	return err
}

func (e *engine) Pull(_ context.Context, reference string, archive io.Writer, _ int64, out io.Writer) error {
	if e.pull == nil {
		return ErrNoEngine
	}
	output, err := e.pull(reference, archive)
	_, _ = io.WriteString(out, output) // as above
	return err
}

func testImage(t *testing.T) imagetest.Image {
	t.Helper()
	return imagetest.Image{
		Layers:     [][]byte{imagetest.Tar(t, imagetest.File("bootstrap", "12345"))},
		Entrypoint: []string{"/bootstrap"}, Cmd: []string{"app.handler"}, Env: []string{"A=1"}, WorkingDir: "/srv",
	}
}

// rootFiles lists the files of an image's root.
func (w *workshop) rootFiles(key string) []string {
	w.t.Helper()
	data, err := w.store.GetBytes(w.t.Context(), key, 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	unpacker, err := zstd.NewReader(strings.NewReader(string(data)))
	if err != nil {
		w.t.Fatal(err)
	}
	defer unpacker.Close()
	var names []string
	for archive := tar.NewReader(unpacker); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			w.t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// TestImageArchive: an archive in the bundle becomes one root, the same for all kinds.
func TestImageArchive(t *testing.T) {
	w := newWorkshop(t, nil)
	i := testImage(t)
	var digests []wire.Digest
	for name, archive := range map[string][]byte{"app.tar": i.Saved(t), "images/app.tar.gz": imagetest.Gzip(i.Layout(t)), "without-ending": i.Layout(t)} {
		reply := w.build(files{"dayfly.yaml": imageManifest() + "image: " + name + "\n", name: string(archive)})
		if reply.Error != nil {
			t.Fatalf("%s: %v", name, reply.Error)
		}
		got := *reply.Image
		want := wire.Image{
			Digest: got.Digest, Bytes: got.Bytes, RootBytes: 5, Arch: runtime.GOARCH, Source: name,
			Command: []string{"/bootstrap", "app.handler"}, Env: []string{"A=1"}, WorkDir: "/srv",
		}
		if diff := cmp.Diff(want, got); diff != "" || reply.Code != got.Digest || reply.CodeBytes != got.Bytes || got.Bytes <= 0 {
			t.Errorf("%s: code %s of %d bytes (-want +got):\n%s", name, reply.Code, reply.CodeBytes, diff)
		}
		digests = append(digests, got.Digest)
	}
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("one image became %v", digests)
	}
	if names := w.rootFiles(wire.ImageKey(digests[0])); !slices.Contains(names, "bootstrap") || !slices.Contains(names, "mnt/output/") {
		t.Errorf("the root holds %v", names)
	}
	reply := w.build(files{"dayfly.yaml": imageManifest() + "image: a.tar\nhandler: other.handler\n", "a.tar": string(i.Saved(t))})
	if reply.Error != nil || !slices.Equal(reply.Image.Command, []string{"/bootstrap", "other.handler"}) {
		t.Errorf("with a handler it is %+v, %v", reply.Image, reply.Error)
	}
}

// TestDockerfile: the engine gets the bundle, and what it makes becomes the root.
func TestDockerfile(t *testing.T) {
	w := newWorkshop(t, nil)
	w.engine.build = func(job ImageJob, archive io.Writer) (string, error) {
		z, err := gzip.NewReader(job.Context)
		if err != nil {
			return "", err
		}
		var names []string
		for entries := tar.NewReader(z); ; {
			h, err := entries.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return "", err
			}
			names = append(names, h.Name)
		}
		if !slices.Contains(names, job.Dockerfile) || !slices.Contains(names, "app") || job.Network != "none" {
			t.Errorf("job %+v with %v", job, names)
		}
		_, err = archive.Write(testImage(t).Saved(t))
		return "Step 1/1\n", err
	}
	for name, manifest := range map[string]string{
		"Dockerfile": imageManifest() + "network: none\n", "docker/Dockerfile.prod": imageManifest() + "network: none\nimage: ./docker/Dockerfile.prod\n",
	} {
		reply := w.build(files{"dayfly.yaml": manifest, name: "FROM scratch\n", "app": "x"})
		if reply.Error != nil || reply.Image.Source != name || reply.Log != "Step 1/1\n" {
			t.Errorf("%s: %+v", name, reply)
		}
	}
}

func TestImageReference(t *testing.T) {
	w := newWorkshop(t, nil)
	w.engine.pull = func(reference string, archive io.Writer) (string, error) {
		if reference != "registry.example/app:1" {
			t.Errorf("pulled %s", reference)
		}
		_, err := archive.Write(testImage(t).Saved(t))
		return "", err
	}
	reply := w.build(files{"dayfly.yaml": imageManifest() + "image: registry.example/app:1\n"})
	if reply.Error != nil || reply.Image.Source != "registry.example/app:1" {
		t.Errorf("%+v", reply)
	}
}

// TestImageRefused: what is wrong with an image is said before it is deployed.
func TestImageRefused(t *testing.T) {
	w := newWorkshop(t, nil)
	damaged := strings.Replace(string(testImage(t).Saved(t)), "12345", "54321", 1)
	silent := testImage(t)
	silent.Entrypoint, silent.Cmd = nil, nil
	failing := func(output string, err error) engine {
		return engine{
			build: func(ImageJob, io.Writer) (string, error) { return output, err },
			pull:  func(string, io.Writer) (string, error) { return output, err },
		}
	}
	for name, test := range map[string]struct {
		bundle files
		engine engine
		code   wire.Code
		want   string
	}{
		"nothing":           {files{"dayfly.yaml": imageManifest()}, engine{}, wire.CodeInvalid, "the bundle has no Dockerfile"},
		"no archive":        {files{"dayfly.yaml": imageManifest() + "image: app.tar.gz\n"}, engine{}, wire.CodeInvalid, `the bundle has no file "app.tar.gz"`},
		"no Dockerfile":     {files{"dayfly.yaml": imageManifest() + "image: x/Dockerfile.arm\n"}, engine{}, wire.CodeInvalid, `the bundle has no file "x/Dockerfile.arm"`},
		"damaged":           {files{"dayfly.yaml": imageManifest() + "image: a.tar\n", "a.tar": damaged}, engine{}, wire.CodeInvalid, "layer 1: its tar is damaged"},
		"no program":        {files{"dayfly.yaml": imageManifest() + "image: a.tar\n", "a.tar": string(silent.Saved(t))}, engine{}, wire.CodeInvalid, "ENTRYPOINT"},
		"no engine":         {files{"dayfly.yaml": imageManifest(), "Dockerfile": "FROM scratch"}, engine{}, wire.CodeInvalid, "put an image archive"},
		"no engine to pull": {files{"dayfly.yaml": imageManifest() + "image: app:1\n"}, engine{}, wire.CodeInvalid, "put an image archive"},
		"a step fails": {
			files{"dayfly.yaml": imageManifest(), "Dockerfile": "FROM scratch"}, failing("Step 3/3\n", ErrJob), wire.CodeInvalid, "Step 3/3",
		},
		"a registry refuses": {files{"dayfly.yaml": imageManifest() + "image: app:1\n"}, failing("", ErrJob), wire.CodeInvalid, "the image app:1 could not be pulled"},
		"the engine breaks": {
			files{"dayfly.yaml": imageManifest(), "Dockerfile": "FROM scratch"}, failing("", errors.New("wires cut")), wire.CodeInternal, "wires cut",
		},
		"a path out": {files{"dayfly.yaml": imageManifest() + "image: ../a.tar\n"}, engine{}, wire.CodeInvalid, "no file"},
	} {
		t.Run(name, func(t *testing.T) {
			*w.engine = test.engine
			wantFailure(t, w.build(test.bundle), test.code, test.want)
		})
	}
}

// TestRebuildFromImage: a root is replaced by an image's, and only a good one.
func TestRebuildFromImage(t *testing.T) {
	w := newWorkshop(t, nil)
	key := wire.BundleKey("archive")
	put := func(data []byte) {
		t.Helper()
		if err := w.store.PutBytes(t.Context(), key, data, ""); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(root string) (reply wire.RebuildReply) {
		t.Helper()
		w.request(wire.RebuildSubject, wire.RebuildRequest{ID: "r1", Root: root, Archive: key}, &reply)
		return reply
	}
	put(testImage(t).Saved(t))
	first := ask("python")
	if first.Error != nil || first.Root.Name != "python" || first.Root.Source != wire.SourceImage || !first.Root.Digest.Valid() {
		t.Fatalf("got %+v, %v", first.Root, first.Error)
	}
	if names := w.rootFiles(wire.RuntimeKey(first.Root.Digest)); !slices.Contains(names, "bootstrap") {
		t.Errorf("the root holds %v", names)
	}
	put([]byte("FROM scratch"))
	if reply := ask("python"); reply.Error == nil || reply.Error.Code != wire.CodeInvalid {
		t.Errorf("a text became %+v, %v", reply.Root, reply.Error)
	}
	if reply := ask("cobol"); reply.Error == nil || reply.Error.Code != wire.CodeNotFound {
		t.Errorf("an unknown root became %+v, %v", reply.Root, reply.Error)
	}
}
