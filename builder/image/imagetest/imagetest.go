// Package imagetest makes container image archives with plain tar code, for tests
// that must not need a container engine.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"testing"
)

// Entry is one entry of a layer. Its zero Header.Typeflag means a file.
type Entry struct {
	tar.Header
	Body string
}

// File makes an entry of a file that everybody may read and run.
func File(name, body string) Entry {
	return Entry{tar.Header{Name: name, Mode: 0o755}, body}
}

// Folder makes an entry of a folder.
func Folder(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

// Link makes an entry of a symbolic link, HardLink of a hard one.
func Link(name, to string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
}

// HardLink makes an entry of a hard link.
func HardLink(name, to string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o755}}
}

// Image is what an archive is made of.
type Image struct {
	// Layers are tars, the lowest first.
	Layers              [][]byte
	Entrypoint, Cmd     []string
	Env                 []string
	WorkingDir          string
	Architecture        string // of this machine when empty
	DiffIDs             []string
	Compress            func([]byte) []byte // of the layers; nil for none
	WithoutPlatform     bool
	ForeignArchitecture string // a second image in an OCI layout, for another machine
}

// Tar makes a tar of entries.
func Tar(tb testing.TB, entries ...Entry) []byte {
	tb.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		e.Size = int64(len(e.Body))
		if err := w.WriteHeader(&e.Header); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buffer.Bytes()
}

// Gzip compresses.
func Gzip(data []byte) []byte {
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	_, _ = w.Write(data) // to memory: cannot fail
	_ = w.Close()
	return buffer.Bytes()
}

// Digest is the hexadecimal SHA-256.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (i Image) config(arch string) []byte {
	diffs := slices.Clone(i.DiffIDs)
	if diffs == nil {
		for _, layer := range i.Layers {
			diffs = append(diffs, "sha256:"+Digest(layer))
		}
	}
	return encode(map[string]any{
		"architecture": arch, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env, "WorkingDir": i.WorkingDir},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
}

func (i Image) arch() string {
	if i.Architecture != "" {
		return i.Architecture
	}
	return runtime.GOARCH
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil { // maps, lists and text only
		return nil
	}
	return data
}

// Saved makes an archive as `docker save` does.
func (i Image) Saved(tb testing.TB) []byte {
	tb.Helper()
	config := i.config(i.arch())
	name := Digest(config) + ".json"
	files := []Entry{File(name, string(config))}
	var layers []string
	for n, layer := range i.Layers {
		path := fmt.Sprintf("%064d/layer.tar", n)
		layers = append(layers, path)
		files = append(files, File(path, string(i.pack(layer))))
	}
	manifest := []any{map[string]any{"Config": name, "RepoTags": []string{"test:latest"}, "Layers": layers}}
	return Tar(tb, append(files, File("manifest.json", string(encode(manifest))))...)
}

func (i Image) pack(layer []byte) []byte {
	if i.Compress == nil {
		return layer
	}
	return i.Compress(layer)
}

// Layout makes an archive of an OCI image layout.
func (i Image) Layout(tb testing.TB) []byte {
	tb.Helper()
	var files []Entry
	blob := func(data []byte) map[string]any {
		digest := Digest(data)
		files = append(files, File("blobs/sha256/"+digest, string(data)))
		return map[string]any{"digest": "sha256:" + digest, "size": len(data)}
	}
	manifest := func(arch string, layers [][]byte) map[string]any {
		list := []any{}
		for _, layer := range layers {
			list = append(list, blob(i.pack(layer)))
		}
		d := blob(encode(map[string]any{"schemaVersion": 2, "config": blob(i.config(arch)), "layers": list}))
		if !i.WithoutPlatform {
			d["platform"] = map[string]any{"os": "linux", "architecture": arch}
		}
		return d
	}
	manifests := []any{manifest(i.arch(), i.Layers)}
	if i.ForeignArchitecture != "" {
		manifests = append([]any{manifest(i.ForeignArchitecture, nil)}, manifests...)
	}
	index := blob(encode(map[string]any{"schemaVersion": 2, "manifests": manifests}))
	files = append(files,
		File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`),
		File("index.json", string(encode(map[string]any{"schemaVersion": 2, "manifests": []any{index}}))))
	return Tar(tb, files...)
}
