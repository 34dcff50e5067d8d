package bundle

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/dayfly-run/dayfly/wire"
)

const unpackAdvice = "make it smaller"

// entryOverhead bounds what a tar spends on one entry besides its content:
// headers, long names, padding.
const entryOverhead = 16 << 10

// Unpack reads a gzip-compressed tar, or a zip, into the folder dst, which must exist
// and be empty. Archives inside it stay files. Nothing outside dst is ever written,
// whatever the archive holds and whoever changes dst meanwhile. Modes become 0644 and
// 0755.
//
// One that is damaged, larger than the limits, or holds anything else than
// files, folders and links that stay inside is a [*wire.Error] with code
// invalid or too_large. An error of r is wrapped. After an error dst is empty.
func Unpack(r io.Reader, dst string, limits Limits) (Summary, error) {
	root, err := os.OpenRoot(dst)
	if err != nil {
		return Summary{}, fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	if err := requireEmpty(root, dst); err != nil {
		return Summary{}, err
	}
	u := unpacker{
		root: root, kinds: map[string]kind{".": kindFolder}, links: links{}, sizes: map[string]int64{},
		tally: tally{limits: limits, advice: unpackAdvice},
	}
	if err := u.read(&sourceReader{r: r}); err != nil {
		if left := empty(root); left != nil {
			err = errors.Join(err, fmt.Errorf("unpack: remove what was made: %w", left))
		}
		return Summary{}, err
	}
	return u.Summary, nil
}

type kind string

const (
	kindFile   kind = "file"
	kindFolder kind = "folder"
	kindLink   kind = "link"
)

// unpacker holds what it has made. Symbolic links are made last, once all are
// known: until then no path in dst can lead anywhere else.
type unpacker struct {
	root  *os.Root
	kinds map[string]kind
	links links
	// sizes holds the size of each file, for hard links to it.
	sizes map[string]int64
	tally
}

// read unpacks the whole stream and checks that it is whole.
func (u *unpacker) read(source *sourceReader) error {
	start := bufio.NewReader(source)
	if magic, _ := start.Peek(len(zipMagic)); string(magic) == zipMagic || string(magic) == emptyZipMagic {
		return u.readZip(source, start)
	}
	zipped, err := gzip.NewReader(start)
	if err != nil {
		return damaged(source, err)
	}
	stream := &boundedReader{
		r:      zipped,
		left:   u.limits.Bytes + int64(u.limits.Files+1)*entryOverhead,
		limits: u.limits,
	}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(source, err)
		}
		if err := u.one(header, archive, source); err != nil {
			return err
		}
	}
	// The checksum of gzip stands behind the tar's end.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return damaged(source, err)
	}
	return u.makeLinks()
}

// one unpacks one entry.
func (u *unpacker) one(header *tar.Header, content io.Reader, source *sourceReader) error {
	if header.Typeflag == tar.TypeXGlobalHeader { // git archive writes one
		return u.entry()
	}
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.folder(name)
	case tar.TypeReg:
		read := &sourceReader{r: content}
		err := u.file(name, header.Size, fs.FileMode(header.Mode&0o777), read)
		if read.err != nil {
			return damaged(source, read.err)
		}
		return err
	case tar.TypeSymlink:
		return u.symlink(name, header.Linkname)
	case tar.TypeLink:
		return u.hardLink(name, header.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		return refuseKind(name, "a device")
	case tar.TypeFifo:
		return refuseKind(name, "a named pipe")
	}
	return refuseKind(name, fmt.Sprintf("of the unknown tar type %q", header.Typeflag))
}

func refuseKind(name, what string) error {
	return invalid("entry %s is %s; a bundle holds files, folders and links, so leave it out", quote(name), what)
}

// folder makes a folder and those above it. It may stand in the tar again.
func (u *unpacker) folder(name string) error {
	switch u.kinds[name] {
	case kindFolder:
		return u.entry()
	case "":
	default:
		return u.changesKind(name, kindFolder)
	}
	if err := u.parents(name); err != nil {
		return err
	}
	return u.makeFolder(name)
}

// parents makes the folders above name that the tar did not list.
func (u *unpacker) parents(name string) error {
	var missing []string
	parent := path.Dir(name)
	for ; u.kinds[parent] == ""; parent = path.Dir(parent) {
		missing = append(missing, parent)
	}
	if got := u.kinds[parent]; got != kindFolder {
		return invalid("entry %s goes through %s, which is a %s; give the entry a folder of its own", quote(name), quote(parent), got)
	}
	for _, folder := range slices.Backward(missing) {
		if err := u.makeFolder(folder); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) makeFolder(name string) error {
	if err := u.entry(); err != nil {
		return err
	}
	u.kinds[name] = kindFolder
	if err := u.root.Mkdir(name, modeFolder); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	// The umask does not decide who may read a function's code.
	if err := u.root.Chmod(name, modeFolder); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

// add counts a new file or link, whose name must be free.
func (u *unpacker) add(name string, as kind) error {
	if u.kinds[name] != "" {
		return u.changesKind(name, as)
	}
	if err := u.parents(name); err != nil {
		return err
	}
	u.kinds[name] = as
	u.Files++
	return u.entry()
}

// changesKind refuses a second entry of the same name: readers of a tar
// disagree about which of the two counts.
func (u *unpacker) changesKind(name string, as kind) error {
	return invalid("entry %s stands twice, as a %s and as a %s; keep one", quote(name), u.kinds[name], as)
}

// file unpacks a file. It is the caller who explains an error of content.
func (u *unpacker) file(name string, size int64, mode fs.FileMode, content io.Reader) error {
	if err := u.add(name, kindFile); err != nil {
		return err
	}
	if err := u.bytes(name, size); err != nil {
		return err
	}
	u.sizes[name] = size
	out, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, modePlain)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer out.Close()
	if _, err := io.Copy(out, content); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := out.Chmod(normalMode(mode)); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

func (u *unpacker) symlink(name, target string) error {
	if err := checkTarget(name, target); err != nil {
		return err
	}
	if err := u.add(name, kindLink); err != nil {
		return err
	}
	u.links[name] = target
	return nil
}

// hardLink makes a second name for a file that the tar held before. It counts
// in full, as it would when it is packed again.
func (u *unpacker) hardLink(name, target string) error {
	file, err := cleanName(target)
	if err != nil {
		return invalid("hard link %s points to %s, which is no name in the bundle; put the file itself there", quote(name), quote(target))
	}
	if u.kinds[file] != kindFile {
		return invalid("hard link %s points to %s, which is not a file earlier in the bundle; put the file itself there", quote(name), quote(target))
	}
	if err := u.add(name, kindFile); err != nil {
		return err
	}
	u.sizes[name] = u.sizes[file]
	if err := u.bytes(name, u.sizes[file]); err != nil {
		return err
	}
	if err := u.root.Link(file, name); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

// makeLinks makes the symbolic links once it is sure that none leaves dst.
func (u *unpacker) makeLinks() error {
	names := slices.Sorted(maps.Keys(u.links))
	if err := u.links.check(names); err != nil {
		return err
	}
	for _, name := range names {
		if err := u.root.Symlink(u.links[name], name); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return nil
}

// damaged explains an error of gzip or tar, unless the source itself failed.
func damaged(source *sourceReader, err error) error {
	if source.err != nil {
		return fmt.Errorf("read bundle: %w", source.err)
	}
	const want = "a gzip-compressed tar or a zip is expected; pack and send it again"
	switch {
	case wire.HasCode(err, wire.CodeTooLarge):
		return err
	case errors.Is(err, io.EOF):
		return invalid("the bundle is empty; %s", want)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the bundle ends too early; %s", want)
	case errors.Is(err, gzip.ErrHeader):
		return invalid("the bundle is neither gzip nor zip, or something follows it; %s", want)
	}
	return invalid("the bundle is damaged (%v); %s", err, want)
}

// boundedReader stops a stream whose headers and padding alone pass the limits.
type boundedReader struct {
	r      io.Reader
	left   int64
	limits Limits
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, wire.Errorf(wire.CodeTooLarge, "the bundle unpacks to more than %d bytes in %d files allow; %s", b.limits.Bytes, b.limits.Files, unpackAdvice)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// requireEmpty refuses a folder in which something stands already.
func requireEmpty(root *os.Root, dst string) error {
	names, err := namesIn(root)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if len(names) > 0 {
		return fmt.Errorf("unpack: the folder %s is not empty", dst)
	}
	return nil
}

// empty removes everything in the folder.
func empty(root *os.Root) error {
	names, err := namesIn(root)
	for _, name := range names {
		err = errors.Join(err, root.RemoveAll(name))
	}
	return err
}

func namesIn(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
