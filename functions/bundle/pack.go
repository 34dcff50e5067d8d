package bundle

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/dayfly-run/dayfly/wire"
)

const packAdvice = "leave some out with " + IgnoreName

// Pack writes the folder to w as a gzip-compressed tar: sorted by name, without
// owners and times, with modes 0644 and 0755. The same content gives the same
// bytes. Folders that hold nothing are left out, as are .git, .dayfly,
// __pycache__, .DS_Store, node_modules/.cache, and what the folder's
// [IgnoreName] file names.
//
// It never follows a link. What a bundle cannot hold, and more than
// [DefaultLimits] or [wire.MaxBundlePacked] allow, is a [*wire.Error] with code
// invalid or too_large; an error of w is wrapped. After an error, what w got is
// not a bundle.
func Pack(dir string, w io.Writer) (Summary, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Summary{}, invalid("cannot open the folder %s: %v; name a folder that you may read", dir, reason(err))
	}
	defer root.Close()
	s := scanner{root: root, links: links{}, tally: tally{limits: DefaultLimits(), advice: packAdvice}}
	if s.rules, err = readIgnore(root); err != nil {
		return Summary{}, err
	}
	if _, err := s.folder("."); err != nil {
		return Summary{}, err
	}
	slices.SortFunc(s.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	if err := s.links.check(s.linkNames()); err != nil {
		return Summary{}, err
	}
	if err := s.write(&boundedWriter{w: w, left: wire.MaxBundlePacked}); err != nil {
		return Summary{}, err
	}
	return s.Summary, nil
}

// file is what becomes one entry of the tar.
type file struct {
	name string
	info fs.FileInfo
}

func (f file) isLink() bool { return f.info.Mode().Type() == fs.ModeSymlink }

// scanner collects a folder's files before any of them is read.
type scanner struct {
	root  *os.Root
	rules []rule
	files []file
	links links
	tally
}

// folder scans one folder and says whether anything in it was kept.
func (s *scanner) folder(name string) (kept bool, err error) {
	d, err := s.root.Open(name)
	if err != nil {
		return false, unreadable(name, err)
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return false, unreadable(name, err)
	}
	for _, base := range names {
		child := path.Join(name, base)
		childKept, err := s.child(child)
		if err != nil {
			return false, err
		}
		kept = kept || childKept
	}
	if kept && name != "." {
		return true, s.entry()
	}
	return kept, nil
}

// child scans one thing in a folder and says whether it was kept.
func (s *scanner) child(name string) (kept bool, err error) {
	info, err := s.root.Lstat(name)
	if err != nil {
		return false, unreadable(name, err)
	}
	if ignored(s.rules, name, info.IsDir()) {
		return false, nil
	}
	if _, err := cleanName(name); err != nil {
		return false, err
	}
	if err := checkKind(name, info.Mode()); err != nil {
		return false, err
	}
	if info.IsDir() {
		return s.folder(name)
	}
	f := file{name, info}
	if err := s.entry(); err != nil {
		return false, err
	}
	if f.isLink() {
		err = s.link(name)
	} else {
		err = s.bytes(name, info.Size())
	}
	s.Files++
	s.files = append(s.files, f)
	return true, err
}

func (s *scanner) link(name string) error {
	target, err := s.root.Readlink(name)
	if err != nil {
		return unreadable(name, err)
	}
	s.links[name] = target
	return checkTarget(name, target)
}

func (s *scanner) linkNames() []string {
	var names []string
	for _, f := range s.files {
		if f.isLink() {
			names = append(names, f.name)
		}
	}
	return names
}

// checkKind refuses what only has a meaning on the machine where it lies.
func checkKind(name string, mode fs.FileMode) error {
	kind := ""
	switch mode.Type() {
	case 0, fs.ModeDir, fs.ModeSymlink:
		return nil
	case fs.ModeNamedPipe:
		kind = "a named pipe"
	case fs.ModeSocket:
		kind = "a socket"
	default:
		kind = "a device"
	}
	return invalid("%s is %s; a bundle holds files, folders and links, so remove it or name it in %s", quote(name), kind, IgnoreName)
}

func (s *scanner) write(w io.Writer) error {
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	for _, f := range s.files {
		if err := s.writeFile(archive, f); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return writeError(err)
	}
	if err := zipped.Close(); err != nil {
		return writeError(err)
	}
	return nil
}

func (s *scanner) writeFile(archive *tar.Writer, f file) error {
	if f.isLink() {
		err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: f.name, Linkname: s.links[f.name], Mode: 0o777})
		if err != nil {
			return writeError(err)
		}
		return nil
	}
	in, err := openScanned(s.root, f)
	if err != nil {
		return err
	}
	defer in.Close()
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: f.name, Size: f.info.Size(), Mode: int64(normalMode(f.info.Mode())),
	}
	if err := archive.WriteHeader(header); err != nil {
		return writeError(err)
	}
	source := &sourceReader{r: in}
	switch n, err := io.Copy(archive, io.LimitReader(source, f.info.Size())); {
	case source.err != nil:
		return unreadable(f.name, source.err)
	case err != nil:
		return writeError(err)
	case n < f.info.Size():
		return changed(f.name)
	}
	if n, _ := source.Read(make([]byte, 1)); n > 0 {
		return changed(f.name)
	}
	return nil
}

// openScanned opens a file and makes sure that it is the one that was scanned,
// should somebody have put a link or a pipe in its place since.
func openScanned(root *os.Root, f file) (*os.File, error) {
	in, err := root.OpenFile(f.name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(f.name, err)
	}
	info, err := in.Stat()
	if err != nil {
		in.Close()
		return nil, unreadable(f.name, err)
	}
	if !info.Mode().IsRegular() || !os.SameFile(info, f.info) {
		in.Close()
		return nil, changed(f.name)
	}
	return in, nil
}

// readIgnore reads the folder's ignore file, if it has one.
func readIgnore(root *os.Root) ([]rule, error) {
	info, err := root.Lstat(IgnoreName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(IgnoreName, err)
	}
	if !info.Mode().IsRegular() {
		return nil, invalid("%s is not a regular file; replace it with one", IgnoreName)
	}
	if info.Size() > maxIgnoreBytes {
		return nil, invalid("%s has %d bytes; at most %d are allowed", IgnoreName, info.Size(), maxIgnoreBytes)
	}
	f, err := openScanned(root, file{IgnoreName, info})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIgnoreBytes))
	if err != nil {
		return nil, unreadable(IgnoreName, err)
	}
	return parseIgnore(data)
}

func unreadable(name string, err error) error {
	return invalid("cannot read %s: %v; make it readable or name it in %s", quote(name), reason(err), IgnoreName)
}

func changed(name string) error {
	return invalid("%s changed while it was packed; try again when nothing writes to it", quote(name))
}

// writeError explains an error of the bundle's writer, unless it is a refusal.
func writeError(err error) error {
	if wire.HasCode(err, wire.CodeTooLarge) {
		return wire.AsError(err)
	}
	return fmt.Errorf("write bundle: %w", err)
}

// boundedWriter fails once a bundle is larger than an upload may be.
type boundedWriter struct {
	w    io.Writer
	left int64
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, wire.Errorf(wire.CodeTooLarge, "the bundle has more than %d bytes, compressed; %s", wire.MaxBundlePacked, packAdvice)
	}
	b.left -= int64(len(p))
	return b.w.Write(p)
}

// sourceReader remembers the error of its reader, so that it can be told from
// those of what reads or copies it.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
