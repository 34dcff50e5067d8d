package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/dayfly-run/dayfly/builder/image"
	"github.com/dayfly-run/dayfly/builder/image/imagetest"
	"github.com/dayfly-run/dayfly/wire"
)

var small = image.Limits{Bytes: 1 << 20, Entries: 100, NameBytes: 64 << 10}

// onDisk puts an archive into a file, which is closed with the test.
func onDisk(tb testing.TB, archive []byte) *os.File {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "archive"))
	if err == nil {
		tb.Cleanup(func() { _ = f.Close() })
		_, err = f.Write(archive)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// flatten returns the root as a text for each entry.
func flatten(tb testing.TB, archive []byte, limits image.Limits) (map[string]string, image.Config, error) {
	tb.Helper()
	work, file := tb.TempDir(), onDisk(tb, archive)
	var out bytes.Buffer
	config, err := image.Flatten(tb.Context(), file, work, runtime.GOARCH, limits, &out)
	if left, e := os.ReadDir(work); e != nil || len(left) > 0 {
		tb.Errorf("left in the work folder: %v, %v", left, e)
	}
	if err != nil {
		return nil, config, err
	}
	return describe(tb, &out), config, nil
}

// describe reads a flattened root and checks what every one must be.
func describe(tb testing.TB, r io.Reader) map[string]string {
	tb.Helper()
	found := map[string]string{}
	entries := tar.NewReader(r)
	for {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			tb.Fatal(err)
		}
		body, err := io.ReadAll(entries)
		if err != nil {
			tb.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if _, twice := found[name]; twice || path.Clean("/"+name) != "/"+name {
			tb.Errorf("entry %q stands twice or is not clean", h.Name)
		}
		if parent := path.Dir(name); parent != "." && !strings.HasPrefix(found[parent], "folder") {
			tb.Errorf("%q stands before its folder", name)
		}
		if h.Mode&0o6000 != 0 {
			tb.Errorf("%q runs as another user", name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			found[name] = fmt.Sprintf("folder %o", h.Mode)
		case tar.TypeReg:
			found[name] = "file " + string(body)
		case tar.TypeSymlink:
			found[name] = "link " + h.Linkname
		case tar.TypeLink:
			if !strings.HasPrefix(found[h.Linkname], "file") {
				tb.Errorf("%q is a hard link to %q, which is no file before it", name, h.Linkname)
			}
			found[name] = "same as " + h.Linkname
		default:
			tb.Errorf("%q is of type %q", name, h.Typeflag)
		}
	}
}

// ours are the mount points that every root has.
func ours(more map[string]string) map[string]string {
	all := map[string]string{
		"dev": "folder 755", "etc": "folder 755", "etc/hostname": "file ", "etc/hosts": "file ", "etc/resolv.conf": "file ",
		"mnt": "folder 755", "mnt/output": "folder 1777", "opt": "folder 755", "opt/dayfly": "folder 755", "proc": "folder 755",
		"run": "folder 755", "run/dayfly": "folder 755", "run/secrets": "folder 755", "sys": "folder 755", "tmp": "folder 1777", "var": "folder 755", "var/task": "folder 755",
	}
	maps.Copy(all, more)
	return all
}

func TestLayersAreApplied(t *testing.T) {
	file, folder, link, hard := imagetest.File, imagetest.Folder, imagetest.Link, imagetest.HardLink
	type entries = []imagetest.Entry
	for name, test := range map[string]struct {
		layers []entries
		want   map[string]string
	}{
		"no layer":         {nil, nil},
		"one":              {[]entries{{file("bootstrap", "x")}}, map[string]string{"bootstrap": "file x"}},
		"dots and slashes": {[]entries{{file("./a//b", "x"), file("/c", "y")}}, map[string]string{"a": "folder 755", "a/b": "file x", "c": "file y"}},
		"over":             {[]entries{{file("a", "old")}, {file("a", "new")}}, map[string]string{"a": "file new"}},
		"twice in a layer": {[]entries{{file("a", "old"), file("a", "new")}}, map[string]string{"a": "file new"}},
		"whiteout":         {[]entries{{file("d/a", "1"), file("d/b", "2")}, {file("d/.wh.a", "")}}, map[string]string{"d": "folder 755", "d/b": "file 2"}},
		"whiteout of a folder": {
			[]entries{{file("d/e/a", "1")}, {file(".wh.d", "")}}, nil,
		},
		"whiteout and again": {
			[]entries{{file("d/a", "1")}, {file("d/c", "3"), file(".wh.d", "")}}, map[string]string{"d": "folder 755", "d/c": "file 3"},
		},
		"opaque keeps its own layer": {
			[]entries{{file("d/a", "1"), file("d/e/f", "2")}, {file("d/e/g", "3"), file("d/.wh..wh..opq", "")}},
			map[string]string{"d": "folder 755", "d/e": "folder 755", "d/e/g": "file 3"},
		},
		"whiteout of nothing":       {[]entries{{file("x/.wh.a", ""), file(".wh..wh.plnk", "")}}, nil},
		"whiteout below a file":     {[]entries{{file("x", "1")}, {file("x/.wh.a", "")}}, map[string]string{"x": "file 1"}},
		"folder over file":          {[]entries{{file("a", "1")}, {file("a/b", "2")}}, map[string]string{"a": "folder 755", "a/b": "file 2"}},
		"file over folder":          {[]entries{{file("a/b", "2")}, {file("a", "1")}}, map[string]string{"a": "file 1"}},
		"folder keeps what it has":  {[]entries{{file("a/b", "2")}, {folder("a")}}, map[string]string{"a": "folder 755", "a/b": "file 2"}},
		"folder over link":          {[]entries{{link("lib", "usr/lib")}, {file("lib/a", "1")}}, map[string]string{"lib": "folder 755", "lib/a": "file 1"}},
		"links lead where they may": {[]entries{{link("out", "../../etc/passwd")}}, map[string]string{"out": "link ../../etc/passwd"}},
		"hard link":                 {[]entries{{file("b", "1"), hard("a", "b")}}, map[string]string{"a": "file 1", "b": "same as a"}},
		"hard link to a lower layer": {
			[]entries{{file("b", "1")}, {hard("c", "/b")}, {file("b", "2")}}, map[string]string{"b": "file 2", "c": "file 1"},
		},
		"device and pipe": {
			[]entries{{
				file("x", "1"),
				{Header: tar.Header{Typeflag: tar.TypeChar, Name: "x"}}, {Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}},
			}}, nil,
		},
		"set-user-ID": {[]entries{{{Header: tar.Header{Name: "su", Mode: 0o4755}, Body: "x"}}}, map[string]string{"su": "file x"}},
		"mount points": {
			[]entries{{file("var/task/app", "x"), link("etc/resolv.conf", "../run/resolv.conf"), file("etc/hosts", "y")}},
			map[string]string{"var/task/app": "file x", "etc/hosts": "file y"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := imagetest.Image{Entrypoint: []string{"/x"}}
			for _, layer := range test.layers {
				i.Layers = append(i.Layers, imagetest.Tar(t, layer...))
			}
			for kind, archive := range map[string][]byte{
				"saved": i.Saved(t), "layout": i.Layout(t), "saved.gz": imagetest.Gzip(i.Saved(t)), "layout.gz": imagetest.Gzip(i.Layout(t)),
			} {
				got, _, err := flatten(t, archive, small)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				if diff := cmp.Diff(ours(test.want), got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", kind, diff)
				}
			}
		})
	}
}

// TestConfig: what the image says is passed on, from both kinds and all compressions.
func TestConfig(t *testing.T) {
	layer := imagetest.Tar(t, imagetest.File("bootstrap", "12345"))
	i := imagetest.Image{
		Layers: [][]byte{layer}, Entrypoint: []string{"/bootstrap"}, Cmd: []string{"app.handler"},
		Env: []string{"A=1", "B="}, WorkingDir: "/srv",
	}
	want := image.Config{Entrypoint: i.Entrypoint, Cmd: i.Cmd, Env: i.Env, WorkDir: "/srv", Bytes: 5}
	zstandard := func(data []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(data, nil)
	}
	for name, compress := range map[string]func([]byte) []byte{"plain": nil, "gzip": imagetest.Gzip, "zstd": zstandard} {
		i.Compress = compress
		i.ForeignArchitecture = "s390x"
		for kind, archive := range map[string][]byte{"saved": i.Saved(t), "layout": i.Layout(t)} {
			_, got, err := flatten(t, archive, small)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s %s: %v (-want +got):\n%s", name, kind, err, diff)
			}
		}
	}
	i = imagetest.Image{WithoutPlatform: true}
	if _, got, err := flatten(t, i.Layout(t), small); err != nil || got.WorkDir != "/" {
		t.Errorf("the least image: %+v, %v", got, err)
	}
}

// TestSameImageSameRoot: the root's digest names it, so nothing else may be in it.
func TestSameImageSameRoot(t *testing.T) {
	i := imagetest.Image{Layers: [][]byte{imagetest.Tar(t, imagetest.File("b", "1"), imagetest.File("a", "2"), imagetest.Folder("c/d"))}}
	var roots [2]bytes.Buffer
	for n, archive := range [][]byte{i.Saved(t), imagetest.Gzip(i.Layout(t))} {
		if _, err := image.Flatten(t.Context(), onDisk(t, archive), t.TempDir(), runtime.GOARCH, small, &roots[n]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(roots[0].Bytes(), roots[1].Bytes()) {
		t.Error("two archives of one image make two roots")
	}
}

func TestRefused(t *testing.T) {
	file := imagetest.File
	with := func(entries ...imagetest.Entry) imagetest.Image {
		return imagetest.Image{Layers: [][]byte{imagetest.Tar(t, entries...)}}
	}
	many := make([]imagetest.Entry, 101)
	for n := range many {
		many[n] = file(strconv.Itoa(n), "")
	}
	good := with(file("a", "content that is damaged later"))
	wrongDiff := good
	wrongDiff.DiffIDs = []string{"sha256:" + strings.Repeat("0", 64)}
	oneTooFew := good
	oneTooFew.DiffIDs = []string{}
	foreign := good
	foreign.Architecture = "s390x"
	bomb := imagetest.Image{Layers: [][]byte{make([]byte, 2<<20)}, Compress: imagetest.Gzip}
	manyEnv := good
	manyEnv.Env = []string{strings.Repeat("A", 20<<10) + "=1"}
	noEnv := good
	noEnv.Env = []string{"=x"}
	relative := good
	relative.WorkingDir = "srv"
	deep := strings.Repeat("d/", 300)
	damage := func(archive []byte) []byte {
		return bytes.Replace(archive, []byte("content that is damaged"), []byte("CONTENT that is damaged"), 1)
	}
	for name, test := range map[string]struct {
		archive []byte
		code    wire.Code
		says    string
	}{
		"traversal":           {with(file("../../etc/passwd", "x")).Saved(t), wire.CodeInvalid, "leads out"},
		"traversal inside":    {with(file("a/../../b", "x")).Saved(t), wire.CodeInvalid, "leads out"},
		"hard link out":       {with(imagetest.HardLink("a", "../b")).Saved(t), wire.CodeInvalid, "leads out"},
		"hard link nowhere":   {with(imagetest.HardLink("a", "b")).Saved(t), wire.CodeInvalid, `layer 1: "a": the hard link leads to "b", which is no file before it`},
		"hard link to folder": {with(imagetest.Folder("b"), imagetest.HardLink("a", "b")).Saved(t), wire.CodeInvalid, "no file before it"},
		"too deep":            {with(file(deep+"x", "")).Saved(t), wire.CodeInvalid, "deep"},
		"long name":           {with(file(strings.Repeat("n", 300), "")).Saved(t), wire.CodeInvalid, "over 255 bytes"},
		"many files":          {with(many...).Saved(t), wire.CodeTooLarge, "100 files"},
		"bomb":                {bomb.Saved(t), wire.CodeTooLarge, "over 1 MiB"},
		"bomb in a layout":    {bomb.Layout(t), wire.CodeTooLarge, "over 1 MiB"},
		"bomb around":         {imagetest.Gzip(make([]byte, 2<<20)), wire.CodeTooLarge, "over 1 MiB"},
		"layer's digest":      {wrongDiff.Saved(t), wire.CodeInvalid, "digest"},
		"too few digests":     {oneTooFew.Saved(t), wire.CodeInvalid, "0 layers"},
		"damaged layer":       {damage(good.Saved(t)), wire.CodeInvalid, "damaged"},
		"damaged blob":        {damage(good.Layout(t)), wire.CodeInvalid, "damaged"},
		"damaged config":      {bytes.Replace(good.Saved(t), []byte(`"os":"linux"`), []byte(`"os":""     `), 1), wire.CodeInvalid, "digest"},
		"other machine":       {foreign.Saved(t), wire.CodeInvalid, "--platform linux/" + runtime.GOARCH},
		"other in a layout":   {foreign.Layout(t), wire.CodeInvalid, "only for linux/s390x"},
		"large environment":   {manyEnv.Saved(t), wire.CodeTooLarge, "environment"},
		"odd environment":     {noEnv.Saved(t), wire.CodeInvalid, "sets no variable"},
		"working directory":   {relative.Saved(t), wire.CodeInvalid, "absolute"},
		"nothing":             {nil, wire.CodeInvalid, "manifest.json"},
		"text":                {[]byte(strings.Repeat("FROM scratch\n", 100)), wire.CodeInvalid, "tar"},
		"cut off":             {good.Saved(t)[:1500], wire.CodeInvalid, "cut off"},
		"cut off, compressed": {imagetest.Gzip(good.Saved(t))[:100], wire.CodeInvalid, "damaged"},
		"two images":          {imagetest.Tar(t, file("manifest.json", `[{},{}]`)), wire.CodeInvalid, "2 images"},
		"no list":             {imagetest.Tar(t, file("manifest.json", `{}`)), wire.CodeInvalid, "JSON"},
		"missing layer":       {imagetest.Tar(t, file("c", "{}"), file("manifest.json", `[{"Config":"c","Layers":["l"]}]`)), wire.CodeInvalid, "no layer"},
		"endless indexes":     {endless(t), wire.CodeInvalid, "blob"},
		"tmp is a file":       {with(file("tmp", "x")).Saved(t), wire.CodeInvalid, "/tmp"},
		"run is a link":       {with(imagetest.Link("run", "elsewhere")).Saved(t), wire.CodeInvalid, "/run"},
		"hosts is a folder":   {with(imagetest.Folder("etc/hosts")).Saved(t), wire.CodeInvalid, "/etc/hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := flatten(t, test.archive, small)
			if !wire.HasCode(err, test.code) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %s with %q", err, test.code, test.says)
			}
		})
	}
}

// endless makes an index that names one whose blob is another's.
func endless(t *testing.T) []byte {
	t.Helper()
	index := fmt.Sprintf(`{"manifests":[{"digest":"sha256:%064d","size":2}]}`, 0)
	return imagetest.Tar(t, imagetest.File("index.json", index), imagetest.File(fmt.Sprintf("blobs/sha256/%064d", 0), "{}"))
}

func TestStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	archive := imagetest.Image{Layers: [][]byte{imagetest.Tar(t, imagetest.File("a", "x"))}}.Saved(t)
	if _, err := image.Flatten(ctx, onDisk(t, archive), t.TempDir(), runtime.GOARCH, small, io.Discard); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// FuzzFlatten: whatever the archive holds, the root is clean and within its bounds, or
// the archive is refused as the caller's fault.
func FuzzFlatten(f *testing.F) {
	i := imagetest.Image{Layers: [][]byte{
		imagetest.Tar(f, imagetest.File("a/b", "1"), imagetest.HardLink("c", "a/b"), imagetest.Link("d", "../x")),
		imagetest.Tar(f, imagetest.File("a/.wh..wh..opq", ""), imagetest.File(".wh.c", "")),
	}}
	f.Add(i.Saved(f), false)
	f.Add(i.Layout(f), false)
	// The second way: the bytes are a layer, with digests that are right.
	f.Add(i.Layers[0], true)
	f.Add(i.Layers[1], true)
	f.Fuzz(func(t *testing.T, data []byte, isLayer bool) {
		if isLayer {
			data = imagetest.Image{Layers: [][]byte{data}}.Saved(t)
		}
		_, _, err := flatten(t, data, small)
		if err != nil && !wire.HasCode(err, wire.CodeInvalid) && !wire.HasCode(err, wire.CodeTooLarge) {
			t.Errorf("error %v", err)
		}
	})
}
