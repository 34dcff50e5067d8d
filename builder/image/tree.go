package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// How a layer says that something of the layers below it is gone.
const (
	whiteoutPrefix = ".wh."
	opaqueWhiteout = whiteoutPrefix + whiteoutPrefix + ".opq"
)

const (
	maxPathBytes = 4096
	maxNameBytes = 255
	maxDepth     = 255
	// maxID and maxTime are the last that every file system keeps.
	maxID   = 1<<31 - 2
	maxTime = 1<<34 - 1
)

// tree is a root file system in memory, without the content of its files. Names are
// keys and lead nowhere, so that no link can.
type tree struct {
	root    *node
	limits  Limits
	entries int
	names   int64
}

// node is a file, a folder or a link.
type node struct {
	kind     byte // as in a tar
	mode     int64
	uid, gid int
	modified time.Time
	link     string           // of a symbolic link
	content  *content         // of a file; hard links share it
	children map[string]*node // of a folder
}

// content is a file's, in its layer.
type content struct {
	layer        io.ReaderAt
	offset, size int64
	path         string // where it was written first, once it was
}

func newTree(limits Limits) *tree { return &tree{root: folder(), limits: limits} }

// folder makes one that no layer lists.
func folder() *node {
	return &node{kind: tar.TypeDir, mode: 0o755, modified: time.Unix(0, 0), children: map[string]*node{}}
}

// apply puts a layer over what is there. What it takes away goes first: that is of
// the layers below only, wherever it stands in the layer.
func (t *tree) apply(ctx context.Context, layer *os.File) error {
	for _, step := range []func(h *tar.Header, parts []string, at int64) error{
		func(_ *tar.Header, parts []string, _ int64) error { t.whiteOut(parts); return nil },
		func(h *tar.Header, parts []string, at int64) error { return t.add(h, parts, layer, at) },
	} {
		if _, err := layer.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if err := t.each(ctx, layer, step); err != nil {
			return err
		}
	}
	return nil
}

// each calls do for every entry but the root itself, with the parts of its name and
// the place of its content.
func (t *tree) each(ctx context.Context, layer *os.File, do func(h *tar.Header, parts []string, at int64) error) error {
	entries := tar.NewReader(layer)
	for n := 0; ; n++ {
		h, err := entries.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return invalid("its tar is damaged: %s", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n > t.limits.Entries:
			return t.tooMany()
		case h.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		parts, err := split(h.Name)
		if err != nil {
			return err
		}
		at, err := layer.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if len(parts) == 0 {
			continue
		}
		if err := do(h, parts, at); err != nil {
			return within(err, "%.120q", h.Name)
		}
	}
}

func (t *tree) tooMany() error {
	return wire.Errorf(wire.CodeTooLarge, "the image has over %d files, or over %d bytes of names", t.limits.Entries, t.limits.NameBytes)
}

// split makes parts of a tar's name, or refuses it.
func split(name string) ([]string, error) {
	if len(name) > maxPathBytes || strings.ContainsRune(name, 0) {
		return nil, invalid("the name %.80q is longer than %d bytes or holds a NUL byte", name, maxPathBytes)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, invalid("the name %.80q leads out of the image", name)
		case len(part) > maxNameBytes:
			return nil, invalid("the name %.80q has a part of over %d bytes", name, maxNameBytes)
		}
		parts = append(parts, part)
	}
	if len(parts) > maxDepth {
		return nil, invalid("the name %.80q is over %d folders deep", name, maxDepth)
	}
	return parts, nil
}

// whiteOut takes away what the entry says is gone.
func (t *tree) whiteOut(parts []string) {
	last := len(parts) - 1
	gone, is := strings.CutPrefix(parts[last], whiteoutPrefix)
	if !is {
		return
	}
	parent := t.find(parts[:last])
	switch {
	case parent == nil || parent.kind != tar.TypeDir:
	case parts[last] == opaqueWhiteout:
		clear(parent.children)
	default:
		delete(parent.children, gone)
	}
}

// find returns the node at a place, or nil. It follows no links.
func (t *tree) find(parts []string) *node {
	at := t.root
	for _, part := range parts {
		if at = at.children[part]; at == nil {
			return nil
		}
	}
	return at
}

// add puts an entry at its place, over what is there.
func (t *tree) add(h *tar.Header, parts []string, layer io.ReaderAt, at int64) error {
	name := parts[len(parts)-1]
	if strings.HasPrefix(name, whiteoutPrefix) {
		return nil
	}
	t.entries++
	t.names += int64(len(h.Name) + len(h.Linkname))
	if t.entries > t.limits.Entries || t.names > t.limits.NameBytes {
		return t.tooMany()
	}
	parent := t.folderAt(parts[:len(parts)-1])
	made, err := t.node(h, layer, at)
	if err != nil {
		return err
	}
	old := parent.children[name]
	switch {
	case made == nil: // a device or a pipe: the platform makes those that there are
		delete(parent.children, name)
	case made.kind == tar.TypeDir && old != nil && old.kind == tar.TypeDir:
		made.children = old.children
		fallthrough
	default:
		parent.children[name] = made
	}
	return nil
}

// folderAt returns the folder at a place, making it and those above it. What is no
// folder is covered, as an overlay does.
func (t *tree) folderAt(parts []string) *node {
	at := t.root
	for _, part := range parts {
		next := at.children[part]
		if next == nil || next.kind != tar.TypeDir {
			next = folder()
			at.children[part] = next
		}
		at = next
	}
	return at
}

// node makes the node of an entry; nil for what an image need not have.
func (t *tree) node(h *tar.Header, layer io.ReaderAt, at int64) (*node, error) {
	if h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID {
		return nil, invalid("its owner %d:%d is none", h.Uid, h.Gid)
	}
	n := &node{
		kind: h.Typeflag, uid: h.Uid, gid: h.Gid, modified: time.Unix(min(max(h.ModTime.Unix(), 0), maxTime), 0),
		// Set-user-ID and set-group-ID have no effect in an instance.
		mode: h.Mode & 0o1777,
	}
	switch h.Typeflag {
	case tar.TypeDir:
		n.children = map[string]*node{}
	case tar.TypeReg:
		if isSparse(h) {
			return nil, invalid("the file is sparse; make the image with another builder")
		}
		n.content = &content{layer: layer, offset: at, size: h.Size}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPathBytes || strings.ContainsRune(h.Linkname, 0) {
			return nil, invalid("the link leads to %.80q, which is no path", h.Linkname)
		}
		n.link = h.Linkname
	case tar.TypeLink:
		return t.linked(h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return nil, nil //nolint:nilnil // nothing is what becomes of it
	default:
		return nil, invalid("the entry is of the unknown tar type %q", h.Typeflag)
	}
	return n, nil
}

// linked returns the file that a hard link leads to.
func (t *tree) linked(name string) (*node, error) {
	target, err := split(name)
	if err != nil {
		return nil, err
	}
	same := t.find(target)
	if same == nil || same.kind == tar.TypeDir {
		return nil, invalid("the hard link leads to %.80q, which is no file before it", name)
	}
	return same, nil
}

// mountPoints are where the platform mounts something: a root is read-only then.
var mountPoints = []struct {
	path string
	mode int64
	file bool
}{
	{path: "/proc", mode: 0o755}, {path: "/sys", mode: 0o755}, {path: "/dev", mode: 0o755},
	// runc gives a tmpfs the mode of the folder that it covers.
	{path: "/tmp", mode: 0o1777}, {path: "/mnt/output", mode: 0o1777},
	{path: "/opt/dayfly", mode: 0o755}, {path: "/run/dayfly", mode: 0o755}, {path: "/run/secrets", mode: 0o755}, {path: "/var/task", mode: 0o755},
	{path: "/etc/resolv.conf", mode: 0o644, file: true}, {path: "/etc/hosts", mode: 0o644, file: true}, {path: "/etc/hostname", mode: 0o644, file: true},
}

// addMountPoints makes those that the image does not have. What stands there must be
// fit to be mounted over: a link would make it another place.
func (t *tree) addMountPoints() error {
	for _, m := range mountPoints {
		parts, err := split(m.path)
		if err != nil {
			return err
		}
		at := t.root
		for i, part := range parts {
			isFile := m.file && i == len(parts)-1
			next := at.children[part]
			switch {
			case next == nil && isFile:
				next = &node{kind: tar.TypeReg, mode: m.mode, modified: time.Unix(0, 0), content: &content{}}
			case next == nil:
				next = folder()
			// Debian and systemd keep links to elsewhere there.
			case isFile && next.kind == tar.TypeSymlink:
				next = &node{kind: tar.TypeReg, mode: m.mode, modified: time.Unix(0, 0), content: &content{}}
			case isFile == (next.kind == tar.TypeDir) || next.kind == tar.TypeSymlink:
				return invalid("the image has something at %s that nothing can be mounted over; make it a folder", path.Join("/", path.Join(parts[:i+1]...)))
			}
			at.children[part] = next
			at = next
		}
		if !m.file {
			at.mode = m.mode
		}
	}
	return nil
}

// write writes the tree as a tar in the order of names and returns the size of its
// files together.
func (t *tree) write(ctx context.Context, out io.Writer) (size int64, err error) {
	w := writer{ctx: ctx, out: tar.NewWriter(out)}
	if err := w.folder("", t.root); err != nil {
		return 0, err
	}
	return w.size, w.out.Close()
}

type writer struct {
	ctx  context.Context //nolint:containedctx // of one walk
	out  *tar.Writer
	size int64
}

func (w *writer) folder(prefix string, n *node) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		child := n.children[name]
		if err := w.entry(prefix+name, child); err != nil {
			return fmt.Errorf("write %.120q: %w", prefix+name, err)
		}
		if child.kind == tar.TypeDir {
			if err := w.folder(prefix+name+"/", child); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) entry(name string, n *node) error {
	h := &tar.Header{
		Typeflag: n.kind, Name: name, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: n.modified, Linkname: n.link,
	}
	switch {
	case n.kind == tar.TypeDir:
		h.Name += "/"
	case n.content != nil && n.content.path != "":
		h.Typeflag, h.Linkname = tar.TypeLink, n.content.path
	case n.content != nil:
		h.Size = n.content.size
	}
	if err := w.out.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	n.content.path = name
	w.size += n.content.size
	if n.content.layer == nil {
		return nil
	}
	_, err := io.Copy(w.out, io.NewSectionReader(n.content.layer, n.content.offset, n.content.size))
	return err
}
