package bundle

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

// zipMagic and emptyZipMagic are how a zip begins. One with a program before it is not
// taken: what reads it from the front sees something else.
const (
	zipMagic      = "PK\x03\x04"
	emptyZipMagic = "PK\x05\x06"
)

// zipName is where a zip lies while it is unpacked, in the folder that gets its files;
// the name is gone before the first of them is made.
const zipName = ".bundle.zip"

// readZip unpacks a zip. Its directory stands at the end, so it goes to a file first.
func (u *unpacker) readZip(source *sourceReader, r io.Reader) error {
	f, err := u.root.OpenFile(zipName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer f.Close()
	if err := u.root.Remove(zipName); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	size, err := io.Copy(f, io.LimitReader(r, wire.MaxBundlePacked+1))
	switch {
	case source.err != nil:
		return fmt.Errorf("read bundle: %w", source.err)
	case err != nil:
		return fmt.Errorf("unpack: %w", err)
	case size > wire.MaxBundlePacked:
		return wire.Errorf(wire.CodeTooLarge, "the bundle has more than %d bytes, packed; %s", wire.MaxBundlePacked, unpackAdvice)
	}
	return u.zip(f, size)
}

func (u *unpacker) zip(f io.ReaderAt, size int64) error {
	offsets, err := u.zipDirectory(f, size)
	if err != nil {
		return err
	}
	// Names are checked here, entry by entry.
	archive, err := zip.NewReader(f, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return badZip("%v", err)
	}
	if len(archive.File) != len(offsets) {
		return badZip("its directory says that it has %d entries, and lists %d", len(offsets), len(archive.File))
	}
	if err := apart(archive.File, offsets); err != nil {
		return err
	}
	for i, entry := range archive.File {
		if err := sameHeader(f, entry, offsets[i]); err != nil {
			return err
		}
		if err := u.zipped(entry); err != nil {
			return err
		}
	}
	return u.makeLinks()
}

func badZip(format string, args ...any) error {
	return invalid("the zip is damaged (%s); pack and send it again", fmt.Sprintf(format, args...))
}

// zipped unpacks one entry.
func (u *unpacker) zipped(entry *zip.File) error {
	name, err := cleanName(entry.Name)
	if err != nil {
		return err
	}
	if entry.Flags&zipEncrypted != 0 {
		return invalid("entry %s is encrypted; pack it without a password", quote(entry.Name))
	}
	mode := entry.Mode()
	if strings.HasSuffix(entry.Name, "/") != mode.IsDir() {
		return badZip("entry %s is a folder by its name or by its mode, but not by both", quote(entry.Name))
	}
	switch mode.Type() {
	case fs.ModeDir:
		if entry.UncompressedSize64 > 0 {
			return badZip("folder %s has content", quote(entry.Name))
		}
		return u.folder(name)
	case 0:
		return u.zippedFile(name, entry, mode)
	case fs.ModeSymlink:
		target, err := zippedTarget(entry)
		if err != nil {
			return err
		}
		return u.symlink(name, target)
	case fs.ModeNamedPipe:
		return refuseKind(name, "a named pipe")
	case fs.ModeSocket:
		return refuseKind(name, "a socket")
	}
	return refuseKind(name, "a device")
}

func (u *unpacker) zippedFile(name string, entry *zip.File, mode fs.FileMode) error {
	if entry.UncompressedSize64 > uint64(u.limits.Bytes) {
		return u.bytes(name, u.limits.Bytes+1)
	}
	content, err := entry.Open()
	if err != nil {
		return badEntry(entry, err)
	}
	defer content.Close()
	read := &sourceReader{r: content}
	err = u.file(name, int64(entry.UncompressedSize64), mode, read)
	if read.err != nil {
		return badEntry(entry, read.err)
	}
	return err
}

// zippedTarget reads where a link points to.
func zippedTarget(entry *zip.File) (string, error) {
	if entry.UncompressedSize64 > maxTargetBytes {
		return "", invalid("link %s: its target has %d bytes; 1 to %d are allowed", quote(entry.Name), entry.UncompressedSize64, maxTargetBytes)
	}
	content, err := entry.Open()
	if err != nil {
		return "", badEntry(entry, err)
	}
	defer content.Close()
	target, err := io.ReadAll(content)
	if err != nil {
		return "", badEntry(entry, err)
	}
	return string(target), nil
}

// badEntry explains why an entry's content cannot be read. The reader of zips checks
// that there is as much as the directory says, and its checksum.
func badEntry(entry *zip.File, err error) error {
	switch {
	case errors.Is(err, zip.ErrAlgorithm):
		return invalid("entry %s is packed by method %d; use deflate, or none", quote(entry.Name), entry.Method)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, zip.ErrFormat):
		return badZip("entry %s has not as many bytes as the directory says", quote(entry.Name))
	}
	return badZip("entry %s: %v", quote(entry.Name), err)
}

// Parts of a zip, by the APPNOTE of PKWARE.
const (
	directoryEndBytes   = 22
	directoryEndMagic   = "PK\x05\x06"
	directory64EndMagic = "PK\x06\x06"
	locator64Bytes      = 20
	locator64Magic      = "PK\x06\x07"
	directoryEntryBytes = 46
	directoryEntryMagic = "PK\x01\x02"
	localHeaderBytes    = 30
	maxZipComment       = 1<<16 - 1
	zipEncrypted        = 1 << 0
	zipDescriptor       = 1 << 3 // sizes and checksum stand behind the content
	zip64               = 1<<32 - 1
	zip64Extra          = 1
)

// zipDirectory walks the directory without keeping it, so that the limits hold before
// any memory is taken for it, and returns where the entries are. The directory must end
// where the file does: readers of a zip disagree about anything else.
func (u *unpacker) zipDirectory(f io.ReaderAt, size int64) (offsets []int64, err error) {
	begin, end, err := directoryBounds(f, size)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.NewSectionReader(f, begin, end-begin))
	for at := begin; at < end; {
		header := make([]byte, directoryEntryBytes)
		if _, err := io.ReadFull(r, header); err != nil || string(header[:4]) != directoryEntryMagic {
			return nil, badZip("its directory breaks off at byte %d", at)
		}
		if len(offsets) >= u.limits.Files {
			return nil, wire.Errorf(wire.CodeTooLarge, "the bundle has more than %d files, links and folders; %s", u.limits.Files, u.advice)
		}
		name, extra, comment := int(le16(header, 28)), int(le16(header, 30)), int(le16(header, 32))
		rest := make([]byte, name+extra+comment)
		if _, err := io.ReadFull(r, rest); err != nil {
			return nil, badZip("its directory breaks off at byte %d", at)
		}
		offset, ok := headerOffset(header, rest[name:name+extra])
		if !ok || offset > begin-localHeaderBytes {
			return nil, badZip("entry %s is nowhere in it", quote(string(rest[:name])))
		}
		offsets = append(offsets, offset)
		at += int64(len(header) + len(rest))
	}
	return offsets, nil
}

// directoryBounds finds the directory by what stands at the end of the file.
func directoryBounds(f io.ReaderAt, size int64) (begin, end int64, err error) {
	tail := make([]byte, min(size, directoryEndBytes+maxZipComment))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, 0, fmt.Errorf("unpack: %w", err)
	}
	at := -1
	for i := len(tail) - directoryEndBytes; i >= 0 && at < 0; i-- {
		if string(tail[i:i+4]) == directoryEndMagic && i+directoryEndBytes+int(le16(tail, i+20)) == len(tail) {
			at = i
		}
	}
	if at < 0 {
		return 0, 0, badZip("it has no directory at its end: it was cut off, or something follows it")
	}
	end = size - int64(len(tail)-at)
	begin, bytes := int64(le32(tail, at+16)), int64(le32(tail, at+12))
	if le16(tail, at+4) != 0 || le16(tail, at+6) != 0 {
		return 0, 0, invalid("the zip is one of several volumes; pack it as one")
	}
	if begin == zip64 || bytes == zip64 || le16(tail, at+10) == 1<<16-1 {
		if begin, bytes, end, err = directory64Bounds(f, end); err != nil {
			return 0, 0, err
		}
	}
	if begin < 0 || bytes < 0 || begin > end || bytes != end-begin {
		return 0, 0, badZip("its directory is not where its end says")
	}
	return begin, end, nil
}

// directory64Bounds reads the other form of the directory's end, which stands before
// the first.
func directory64Bounds(f io.ReaderAt, end int64) (begin, bytes, newEnd int64, err error) {
	lost := badZip("its directory's end is not whole")
	locator := make([]byte, locator64Bytes)
	if end < locator64Bytes {
		return 0, 0, 0, lost
	}
	if _, err := f.ReadAt(locator, end-locator64Bytes); err != nil || string(locator[:4]) != locator64Magic {
		return 0, 0, 0, lost
	}
	newEnd = int64(binary.LittleEndian.Uint64(locator[8:])) //nolint:gosec // what is negative is refused
	record := make([]byte, 56)
	if newEnd < 0 || newEnd > end-locator64Bytes-int64(len(record)) {
		return 0, 0, 0, lost
	}
	if _, err := f.ReadAt(record, newEnd); err != nil || string(record[:4]) != directory64EndMagic {
		return 0, 0, 0, lost
	}
	//nolint:gosec // what is negative is refused
	return int64(binary.LittleEndian.Uint64(record[48:])), int64(binary.LittleEndian.Uint64(record[40:])), newEnd, nil
}

// headerOffset is where an entry's own header is, by its directory entry.
func headerOffset(header, extra []byte) (offset int64, ok bool) {
	if offset = int64(le32(header, 42)); offset != zip64 {
		return offset, true
	}
	for len(extra) >= 4 {
		id, n := le16(extra, 0), int(le16(extra, 2))
		if extra = extra[4:]; n > len(extra) {
			return 0, false
		}
		field := extra[:n]
		extra = extra[n:]
		if id != zip64Extra {
			continue
		}
		// It has those that do not fit above, in this order.
		for _, at := range []int{24, 20} {
			if le32(header, at) == zip64 && len(field) >= 8 {
				field = field[8:]
			}
		}
		if len(field) < 8 {
			return 0, false
		}
		offset = int64(binary.LittleEndian.Uint64(field)) //nolint:gosec // what is negative is refused
		return offset, offset >= 0
	}
	return 0, false
}

// apart refuses entries that share bytes, by which a small zip unpacks to a huge one.
func apart(entries []*zip.File, offsets []int64) error {
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(offsets[a] - offsets[b]) })
	end := int64(0)
	for _, i := range order {
		entry := entries[i]
		if offsets[i] < end {
			return badZip("entry %s shares bytes with another one", quote(entry.Name))
		}
		if entry.CompressedSize64 > wire.MaxBundlePacked {
			return badZip("entry %s has not as many bytes as the directory says", quote(entry.Name))
		}
		data, err := entry.DataOffset()
		if err != nil {
			return badEntry(entry, err)
		}
		end = data + int64(entry.CompressedSize64) //nolint:gosec // it was compared
	}
	return nil
}

// sameHeader refuses an entry whose own header tells something else than the directory:
// readers of a zip disagree about which of the two counts.
func sameHeader(f io.ReaderAt, entry *zip.File, offset int64) error {
	header := make([]byte, localHeaderBytes+len(entry.Name))
	if _, err := f.ReadAt(header, offset); err != nil || string(header[:4]) != zipMagic {
		return badZip("entry %s is nowhere in it", quote(entry.Name))
	}
	differs := int(le16(header, 26)) != len(entry.Name) || !bytes.Equal(header[localHeaderBytes:], []byte(entry.Name)) ||
		le16(header, 8) != entry.Method || (le16(header, 6)^entry.Flags)&(zipEncrypted|zipDescriptor) != 0
	if entry.Flags&zipDescriptor == 0 {
		differs = differs || le32(header, 14) != entry.CRC32 ||
			differ(le32(header, 18), entry.CompressedSize64) || differ(le32(header, 22), entry.UncompressedSize64)
	}
	if differs {
		return badZip("entry %s tells something else in its own header than in the directory", quote(entry.Name))
	}
	return nil
}

// differ compares a size in an entry's own header, where a large one may stand elsewhere.
func differ(local uint32, size uint64) bool { return local != zip64 && uint64(local) != size }

func le16(b []byte, at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
func le32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
