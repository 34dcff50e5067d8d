package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxJSON bounds one of an archive's documents, in bytes.
	maxJSON = 4 << 20
	// maxMembers bounds the files of an archive; an image has a few for each layer.
	maxMembers = 4096
	// maxIndexes bounds how deep one index may name another.
	maxIndexes = 3
	// maxLayers is as many as container engines take.
	maxLayers = 127
)

// archive is an image's archive, open for reading at any place.
type archive struct {
	file    *os.File
	own     bool // file is ours to close
	work    string
	limits  Limits
	members map[string]member
}

// member is a file in the archive, or a link to one.
type member struct {
	offset, size int64
	link         string
}

// located is one image in an archive.
type located struct {
	configuration []byte
	layers        []member
}

// openArchive makes f readable at any place, uncompressing it into work where it is
// compressed, and lists what is in it.
func openArchive(ctx context.Context, f *os.File, work string, limits Limits) (*archive, error) {
	a := &archive{file: f, work: work, limits: limits, members: map[string]member{}}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	if info.Size() > limits.Bytes {
		return nil, limits.exceeded()
	}
	if kind, err := compression(f); err != nil {
		return nil, err
	} else if kind != plain {
		if a.file, _, err = a.uncompress(ctx, f, kind, limits.Bytes, nil); err != nil {
			return nil, err
		}
		a.own = true
	}
	if err := a.list(); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *archive) close() {
	if a.own {
		_ = a.file.Close() // it was only read since
	}
}

func (l Limits) exceeded() error {
	return wire.Errorf(wire.CodeTooLarge, "the image's layers are over %d MiB together; make it smaller", l.Bytes>>20)
}

// list notes where each member's content stands: behind its header, where the tar
// reader has just come to.
func (a *archive) list() error {
	entries := tar.NewReader(a.file)
	for range maxMembers {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return invalid("the image archive is no tar, or is cut off: %s", err)
		}
		at, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if isSparse(h) {
				return invalid("%.80q in the image archive is sparse; write it with another tar", name)
			}
			a.members[name] = member{offset: at, size: h.Size}
		case tar.TypeSymlink: // older engines share layers so
			a.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.members[name] = member{link: path.Clean(h.Linkname)}
		}
	}
	return wire.Errorf(wire.CodeTooLarge, "the image archive has over %d members", maxMembers)
}

// isSparse reports whether a file's content does not stand in the tar as it is.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (a *archive) find(name string) (member, bool) {
	m, ok := a.members[path.Clean(name)]
	if ok && m.link != "" {
		m, ok = a.members[m.link]
		ok = ok && m.link == ""
	}
	return m, ok
}

// read returns a small member.
func (a *archive) read(name string) ([]byte, error) {
	m, ok := a.find(name)
	if !ok {
		return nil, invalid("the image archive has no %.120q; make it with docker save, or as an OCI layout", name)
	}
	if m.size > maxJSON {
		return nil, wire.Errorf(wire.CodeTooLarge, "%.120q in the image archive is over %d bytes", name, maxJSON)
	}
	data := make([]byte, m.size)
	if _, err := a.file.ReadAt(data, m.offset); err != nil {
		return nil, invalid("the image archive is cut off: %s", err)
	}
	return data, nil
}

func (a *archive) decode(name string, into any) error {
	data, err := a.read(name)
	if err != nil {
		return err
	}
	return decode(name, data, into)
}

func decode(name string, data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return invalid("%.120q in the image archive is no JSON of its kind: %s", name, err)
	}
	return nil
}

// locate finds the one image that is meant. A newer `docker save` writes both kinds;
// its own list then says which image it is.
func (a *archive) locate(arch string) (located, error) {
	if _, ok := a.find("manifest.json"); ok {
		return a.saved()
	}
	if _, ok := a.find("index.json"); ok {
		return a.layout(arch)
	}
	return located{}, invalid("the file is no image archive: it has neither manifest.json nor index.json; make it with docker save, or as an OCI layout")
}

// saved reads what `docker save` wrote.
func (a *archive) saved() (i located, err error) {
	var images []struct {
		Config string   `json:"Config"` //nolint:tagliatelle // as Docker spells it
		Layers []string `json:"Layers"` //nolint:tagliatelle // as above
	}
	if err := a.decode("manifest.json", &images); err != nil {
		return i, err
	}
	if len(images) != 1 {
		return i, invalid("the archive holds %d images; save the one that is meant", len(images))
	}
	if i.configuration, err = a.read(images[0].Config); err != nil {
		return i, err
	}
	// The file's name is its digest, with .json behind it or a folder before it.
	named := strings.TrimSuffix(path.Base(images[0].Config), ".json")
	if wire.Digest(named).Valid() && digestOf(i.configuration) != named {
		return i, wrongDigest("the image's configuration", named)
	}
	for _, name := range images[0].Layers {
		m, ok := a.find(name)
		if !ok {
			return i, invalid("the image archive has no layer %.120q; it was cut off, or saved without it", name)
		}
		i.layers = append(i.layers, m)
	}
	return i, checkLayers(i.layers)
}

func checkLayers(layers []member) error {
	if len(layers) > maxLayers {
		return wire.Errorf(wire.CodeTooLarge, "the image has %d layers; at most %d are allowed", len(layers), maxLayers)
	}
	return nil
}

// descriptor names a blob of an OCI layout.
type descriptor struct {
	Digest   string `json:"digest"`
	Size     int64  `json:"size"`
	Platform *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	} `json:"platform"`
}

// listing is an OCI index or manifest: one has manifests, the other layers.
type listing struct {
	Manifests []descriptor `json:"manifests"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// layout reads an OCI image layout.
func (a *archive) layout(arch string) (i located, err error) {
	var l listing
	if err := a.decode("index.json", &l); err != nil {
		return i, err
	}
	for range maxIndexes {
		if l.Config.Digest != "" {
			break
		}
		chosen, err := choose(l.Manifests, arch)
		if err != nil {
			return i, err
		}
		data, err := a.document(chosen)
		if err != nil {
			return i, err
		}
		l = listing{}
		if err := decode(chosen.Digest, data, &l); err != nil {
			return i, err
		}
	}
	if l.Config.Digest == "" {
		return i, invalid("the image archive's index leads to no manifest")
	}
	if i.configuration, err = a.document(l.Config); err != nil {
		return i, err
	}
	for _, layer := range l.Layers {
		m, err := a.blob(layer)
		if err != nil {
			return i, err
		}
		if err := a.verify(m, layer.Digest); err != nil {
			return i, err
		}
		i.layers = append(i.layers, m)
	}
	return i, checkLayers(i.layers)
}

// choose picks the manifest for the architecture. Attestations say that they are
// for no platform; a lone manifest need not say for which it is.
func choose(manifests []descriptor, arch string) (descriptor, error) {
	var fit, offered []string
	var chosen descriptor
	for _, d := range manifests {
		switch {
		case d.Platform == nil:
			fit = append(fit, d.Digest)
			chosen = d
		case d.Platform.OS == "linux" && d.Platform.Architecture == arch:
			return d, nil
		default:
			offered = append(offered, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	switch len(fit) {
	case 1:
		return chosen, nil
	case 0:
		return chosen, invalid("the archive holds no image for linux/%s, only for %s", arch, strings.Join(slices.Compact(offered), ", "))
	}
	return chosen, invalid("the archive holds %d images; save the one that is meant", len(fit))
}

func (a *archive) blob(d descriptor) (member, error) {
	kind, sum, _ := strings.Cut(d.Digest, ":")
	if kind != "sha256" || !wire.Digest(sum).Valid() {
		return member{}, invalid("the image archive names a blob by %.80q; only sha256 digests are understood", d.Digest)
	}
	m, ok := a.find("blobs/sha256/" + sum)
	if !ok {
		return m, invalid("the image archive has no blob %s; it was cut off, or saved without it", d.Digest)
	}
	if m.size != d.Size {
		return m, invalid("blob %s has %d bytes in the archive, and %d by the image's manifest; make the archive anew", d.Digest, m.size, d.Size)
	}
	return m, nil
}

// document reads a small blob and checks it.
func (a *archive) document(d descriptor) ([]byte, error) {
	if _, err := a.blob(d); err != nil {
		return nil, err
	}
	sum := strings.TrimPrefix(d.Digest, "sha256:")
	data, err := a.read("blobs/sha256/" + sum)
	if err == nil && digestOf(data) != sum {
		err = wrongDigest("a blob", d.Digest)
	}
	return data, err
}

// verify checks the digest of a blob as it is stored.
func (a *archive) verify(m member, digest string) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, a.section(m)); err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) != digest {
		return wrongDigest("a layer", digest)
	}
	return nil
}

func (a *archive) section(m member) *io.SectionReader {
	return io.NewSectionReader(a.file, m.offset, m.size)
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func wrongDigest(what, want string) error {
	return invalid("%s is damaged: its content does not have the digest %s; make the archive anew", what, want)
}

// layer writes a layer of at most most bytes, uncompressed, into a file, checks its
// digest, and returns the file, at its start, and its size.
func (a *archive) layer(ctx context.Context, m member, diff string, most int64) (*os.File, int64, error) {
	section := a.section(m)
	kind, err := compression(section)
	if err != nil {
		return nil, 0, err
	}
	sum := sha256.New()
	f, size, err := a.uncompress(ctx, section, kind, most, sum)
	if err != nil {
		return nil, 0, err
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) != diff {
		_ = f.Close()
		return nil, 0, wrongDigest("its tar", diff)
	}
	return f, size, nil
}

type compressionKind int

const (
	plain compressionKind = iota
	gzipped
	zstandard
)

// compression looks at the first bytes, whatever the name says, and goes back.
func compression(r io.ReadSeeker) (compressionKind, error) {
	var magic [4]byte
	n, err := io.ReadFull(r, magic[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return plain, fmt.Errorf("read image: %w", err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return plain, fmt.Errorf("read image: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic[:n], []byte{0x1f, 0x8b}):
		return gzipped, nil
	case bytes.Equal(magic[:n], []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstandard, nil
	}
	return plain, nil
}

// maxWindow bounds the memory that a zstd stream may ask for, in bytes.
const maxWindow = 128 << 20

// uncompress writes a stream into a file without a name, at most most bytes of it, and
// also into sum unless that is nil. The file stands at its start.
func (a *archive) uncompress(ctx context.Context, r io.Reader, kind compressionKind, most int64, sum io.Writer) (_ *os.File, size int64, err error) {
	r = bufio.NewReaderSize(r, 256<<10)
	switch kind {
	case gzipped:
		unzip, err := gzip.NewReader(r)
		if err != nil {
			return nil, 0, invalid("the image archive is damaged: %s", err)
		}
		r = unzip
	case zstandard:
		unpack, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, 0, invalid("the image archive is damaged: %s", err)
		}
		defer unpack.Close()
		r = unpack
	}
	f, err := os.CreateTemp(a.work, "image-")
	if err != nil {
		return nil, 0, fmt.Errorf("unpack image: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil { // nothing is left when it is closed
		return nil, 0, fmt.Errorf("unpack image: %w", err)
	}
	to := io.Writer(f)
	if sum != nil {
		to = io.MultiWriter(f, sum)
	}
	from := &reading{ctx: ctx, r: io.LimitReader(r, most+1)}
	size, err = io.Copy(to, from)
	switch {
	case size > most:
		return nil, 0, a.limits.exceeded()
	case from.err != nil && ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case from.err != nil:
		return nil, 0, invalid("the image archive is damaged: %s", from.err)
	case err != nil:
		return nil, 0, fmt.Errorf("unpack image: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("unpack image: %w", err)
	}
	return f, size, nil
}

// reading ends with its context, and tells a failure of what is read from one of
// what is written.
type reading struct {
	ctx context.Context //nolint:containedctx // of one copy
	r   io.Reader
	err error
}

func (r *reading) Read(p []byte) (int, error) {
	if r.err = r.ctx.Err(); r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
