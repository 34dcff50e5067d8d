package bundle

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

// zipEntry is an entry that need not make sense.
type zipEntry struct {
	zip.FileHeader
	content string
}

func zipFile(name, content string) zipEntry { return zipOf(name, content, 0o644) }

func zipOf(name, content string, mode fs.FileMode) zipEntry {
	e := zipEntry{FileHeader: zip.FileHeader{Name: name, Method: zip.Deflate}, content: content}
	e.SetMode(mode)
	if mode.IsDir() {
		e.Method = zip.Store
	}
	return e
}

// zipped makes a zip as a tool does that writes to a stream: sizes follow the content.
func zipped(t testingT, entries ...zipEntry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		content, err := w.CreateHeader(&e.FileHeader)
		must(t, err)
		_, err = io.WriteString(content, e.content)
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

// rawZip makes a zip as most tools do: sizes stand before the content.
func rawZip(t testingT, entries ...zipEntry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		e.CRC32, e.UncompressedSize64 = crc32.ChecksumIEEE([]byte(e.content)), uint64(len(e.content))
		var packed bytes.Buffer
		deflate, err := flate.NewWriter(&packed, flate.BestSpeed)
		must(t, err)
		_, err = io.WriteString(deflate, e.content)
		must(t, err)
		must(t, deflate.Close())
		e.CompressedSize64 = uint64(packed.Len())
		raw, err := w.CreateRaw(&e.FileHeader)
		must(t, err)
		_, err = raw.Write(packed.Bytes())
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

// patch changes bytes of a zip behind the nth time that a mark comes.
func patch(t testingT, data []byte, mark string, nth, offset int, with ...byte) []byte {
	t.Helper()
	data = bytes.Clone(data)
	at := -1
	for range nth {
		next := bytes.Index(data[at+1:], []byte(mark))
		if next < 0 {
			t.Fatalf("%q is not there %d times", mark, nth)
		}
		at += 1 + next
	}
	copy(data[at+offset:], with)
	return data
}

func TestUnpackZip(t *testing.T) {
	for name, test := range map[string]struct {
		data []byte
		want tree
	}{
		"empty": {zipped(t), tree{}},
		"files, folders and links": {zipped(t, zipOf("d/", "", fs.ModeDir|0o700), zipFile("d/a", "one"), zipFile("e/f/b", "two"),
			zipOf("l", "d/a", fs.ModeSymlink|0o777)), tree{"d/a": "one", "e/f/b": "two", "l": "-> d/a"}},
		"sizes before the content": {rawZip(t, zipFile("a", "one"), zipFile("b", strings.Repeat("two", 1000))), tree{"a": "one", "b": strings.Repeat("two", 1000)}},
		"with a comment":           {patchComment(zipped(t, zipFile("a", "one")), "PK\x05\x06 in a comment"), tree{"a": "one"}},
		// What Windows minds is a name like any other here.
		"odd names": {zipped(t, zipFile("C:x", "1"), zipFile("aux.", "2"), zipFile("A", "3"), zipFile("a", "4"), zipFile("b ", "5"), zipFile("ü\u202e", "6")),
			tree{"C:x": "1", "aux.": "2", "A": "3", "a": "4", "b ": "5", "ü\u202e": "6"}},
		"zip64": {zip64Of(t), tree{"a": "one"}},
	} {
		dst := t.TempDir()
		if _, err := Unpack(bytes.NewReader(test.data), dst, DefaultLimits()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(test.want, harvest(t, dst)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestArchivesInsideStayFiles: nothing is unpacked but the bundle, so that an archive
// which holds itself is one small file.
func TestArchivesInsideStayFiles(t *testing.T) {
	inner := zipped(t, zipFile("x", "y"))
	outer := zipped(t, zipFile("again.zip", string(inner)), zipFile("again.tar.gz", string(archive(t, file1("a")))))
	dst := t.TempDir()
	summary, err := Unpack(bytes.NewReader(outer), dst, DefaultLimits())
	if err != nil || summary.Files != 2 {
		t.Fatalf("%+v, %v", summary, err)
	}
	if got := harvest(t, dst); got["again.zip"] != string(inner) {
		t.Error("the archive inside is another one")
	}
}

func patchComment(data []byte, comment string) []byte {
	data = append(bytes.Clone(data), comment...)
	at := len(data) - len(comment) - directoryEndBytes
	binary.LittleEndian.PutUint16(data[at+20:], uint16(len(comment))) //nolint:gosec // it is short
	return data
}

// zip64Of is a zip whose directory stands in the large form, as some tools always write.
func zip64Of(t testingT) []byte {
	t.Helper()
	data := zipped(t, zipFile("a", "one"))
	end := len(data) - directoryEndBytes
	begin, size := le32(data, end+16), le32(data, end+12)
	out := bytes.Clone(data[:end])
	record := make([]byte, 56)
	copy(record, directory64EndMagic)
	binary.LittleEndian.PutUint64(record[4:], 44)
	binary.LittleEndian.PutUint64(record[24:], 1)
	binary.LittleEndian.PutUint64(record[32:], 1)
	binary.LittleEndian.PutUint64(record[40:], uint64(size))
	binary.LittleEndian.PutUint64(record[48:], uint64(begin))
	locator := make([]byte, locator64Bytes)
	copy(locator, locator64Magic)
	binary.LittleEndian.PutUint64(locator[8:], uint64(end)) //nolint:gosec // an offset
	binary.LittleEndian.PutUint32(locator[16:], 1)
	out = append(append(out, record...), locator...)
	tail := bytes.Clone(data[end:])
	copy(tail[8:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	return append(out, tail...)
}

func TestUnpackZipRefuses(t *testing.T) {
	const damagedZip = "the zip is damaged ("
	one, raw := zipped(t, zipFile("name-a", "one")), rawZip(t, zipFile("name-a", "one"))
	two := rawZip(t, zipFile("name-a", "one"), zipFile("name-b", "two"))
	size := func(data []byte, local bool, n uint32) []byte {
		size := binary.LittleEndian.AppendUint32(nil, n)
		data = patch(t, data, directoryEntryMagic, 1, 24, size...)
		if local {
			data = patch(t, data, zipMagic, 1, 22, size...)
		}
		return data
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"slip":              {zipped(t, zipFile("../x", "")), `entry "../x": the name holds ".."`},
		"inner slip":        {zipped(t, zipFile("a/../../x", "")), `the name holds ".."`},
		"absolute":          {zipped(t, zipFile("/etc/x", "")), `the name is absolute`},
		"backslashes":       {zipped(t, zipFile(`..\x`, "")), `names cannot hold a backslash or NUL`},
		"drive":             {zipped(t, zipFile(`C:\x`, "")), `names cannot hold a backslash or NUL`},
		"NUL":               {zipped(t, zipFile("a\x00b", "")), `names cannot hold a backslash or NUL`},
		"no UTF-8":          {zipped(t, zipFile("a\xff", "")), `the name is not UTF-8`},
		"no name":           {zipped(t, zipFile("", "")), `an entry without a name`},
		"overlong":          {zipped(t, zipFile(strings.Repeat("abcdefg/", 512)+"x", "")), `at most 4096 are allowed`},
		"overlong part":     {zipped(t, zipFile(strings.Repeat("n", 256), "")), `at most 255 are allowed`},
		"deep":              {zipped(t, zipFile(strings.Repeat("d/", 128)+"x", "")), `folders nest more than 128 deep`},
		"twice":             {zipped(t, zipFile("a", "1"), zipFile("a", "2")), `stands twice`},
		"through a file":    {zipped(t, zipFile("a", "1"), zipFile("a/b", "2")), `goes through "a", which is a file`},
		"through a link":    {zipped(t, zipOf("a", "b", fs.ModeSymlink), zipFile("a/x", "2")), `goes through "a", which is a link`},
		"link out":          {zipped(t, zipOf("a", "../../x", fs.ModeSymlink)), `outside the folder`},
		"absolute link":     {zipped(t, zipOf("a", "/etc/passwd", fs.ModeSymlink)), `outside the folder`},
		"long link":         {zipped(t, zipOf("a", strings.Repeat("x", 5000), fs.ModeSymlink)), `its target has 5000 bytes`},
		"device":            {zipped(t, zipOf("a", "", fs.ModeDevice)), `is a device`},
		"character device":  {zipped(t, zipOf("a", "", fs.ModeDevice|fs.ModeCharDevice)), `is a device`},
		"pipe":              {zipped(t, zipOf("a", "", fs.ModeNamedPipe)), `is a named pipe`},
		"socket":            {zipped(t, zipOf("a", "", fs.ModeSocket)), `is a socket`},
		"folder by mode":    {patch(t, zipped(t, zipFile("a", "")), directoryEntryMagic, 1, 40, 0xed, 0x41), damagedZip},
		"encrypted":         {patch(t, patch(t, raw, zipMagic, 1, 6, 1), directoryEntryMagic, 1, 8, 1), `is encrypted; pack it without a password`},
		"unknown method":    {patch(t, patch(t, raw, zipMagic, 1, 8, 12), directoryEntryMagic, 1, 10, 12), `is packed by method 12`},
		"says less":         {size(raw, true, 2), damagedZip},
		"says more":         {size(raw, true, 4), damagedZip},
		"headers differ":    {size(raw, false, 4), `tells something else in its own header`},
		"names differ":      {patch(t, raw, "name-a", 1, 0, 'N'), `tells something else in its own header`},
		"wrong checksum":    {patch(t, one, directoryEntryMagic, 1, 16, 1, 2, 3, 4), damagedZip},
		"content damaged":   {patch(t, one, "name-a", 1, 6, 0xff), damagedZip},
		"entries overlap":   {patch(t, two, directoryEntryMagic, 2, 42, 0, 0, 0, 0), `shares bytes with another one`},
		"entry nowhere":     {patch(t, one, directoryEntryMagic, 1, 42, 0xff, 0xff), `is nowhere in it`},
		"several volumes":   {patch(t, one, directoryEndMagic, 1, 4, 1), `one of several volumes`},
		"other count":       {patch(t, one, directoryEndMagic, 1, 10, 7), damagedZip},
		"other directory":   {patch(t, one, directoryEndMagic, 1, 16, 1), `not where its end says`},
		"zip64 end is lost": {patch(t, one, directoryEndMagic, 1, 16, 0xff, 0xff, 0xff, 0xff), `end is not whole`},
		"cut off":           {one[:len(one)-1], `cut off, or something follows it`},
		"something behind":  {append(bytes.Clone(one), "rubbish"...), `cut off, or something follows it`},
		"two zips":          {append(bytes.Clone(one), one...), `not where its end says`},
		"only the magic":    {[]byte(zipMagic), `cut off, or something follows it`},
	} {
		dst := t.TempDir()
		_, err := Unpack(bytes.NewReader(test.data), dst, DefaultLimits())
		if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
		if left, err := filepath.Glob(dst + "/*"); err != nil || len(left) > 0 {
			t.Errorf("%s: left %q, %v", name, left, err)
		}
	}
	for n := len(zipMagic); n < len(two); n++ {
		if _, err := Unpack(bytes.NewReader(two[:n]), t.TempDir(), DefaultLimits()); !wire.HasCode(err, wire.CodeInvalid) {
			t.Fatalf("%d of %d bytes: %v", n, len(two), err)
		}
	}
}

// TestUnpackZipHoldsTheLimits: they are checked before anything is made, and by what is
// there, not by what the zip says of itself.
func TestUnpackZipHoldsTheLimits(t *testing.T) {
	limits := Limits{Files: 3, Bytes: 1000}
	many := make([]zipEntry, 4)
	for i := range many {
		many[i] = zipFile(fmt.Sprint(i), "")
	}
	for name, data := range map[string][]byte{
		"files":   zipped(t, many...),
		"folders": zipped(t, zipFile("a/b/c/d", "")),
		"a bomb":  zipped(t, zipFile("a", strings.Repeat("0", 1_000_000))),
		"in sum":  zipped(t, zipFile("a", strings.Repeat("0", 600)), zipFile("b", strings.Repeat("0", 600))),
	} {
		dst := t.TempDir()
		if _, err := Unpack(bytes.NewReader(data), dst, limits); !wire.HasCode(err, wire.CodeTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := filepath.Glob(dst + "/*"); err != nil || len(left) > 0 {
			t.Errorf("%s: left %q, %v", name, left, err)
		}
	}
	if _, err := Unpack(bytes.NewReader(zipped(t, many[:3]...)), t.TempDir(), limits); err != nil {
		t.Errorf("at the limit: %v", err)
	}
}

// TestHundredThousandFiles are refused in either form, and the zip before any is made.
func TestHundredThousandFiles(t *testing.T) {
	var asZip bytes.Buffer
	w := zip.NewWriter(&asZip)
	for n := range 100_000 {
		_, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(n)})
		must(t, err)
	}
	must(t, w.Close())
	dst := t.TempDir()
	if _, err := Unpack(bytes.NewReader(asZip.Bytes()), dst, DefaultLimits()); !wire.HasCode(err, wire.CodeTooLarge) {
		t.Errorf("%v", err)
	}
	if left := harvest(t, dst); len(left) > 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// FuzzUnpackZip is [FuzzUnpack] for zips.
func FuzzUnpackZip(f *testing.F) {
	for _, seed := range [][]byte{
		zipped(f), zipped(f, zipOf("d/", "", fs.ModeDir|0o700), zipFile("d/a", "one"), zipOf("l", "d/a", fs.ModeSymlink)),
		rawZip(f, zipFile("a", "one"), zipFile("b", "two")), zip64Of(f), zipped(f, zipFile("../x", ""), zipFile("/x", "")),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		dst := filepath.Join(base, "in", "dst")
		plant(t, base, tree{"outside": "untouched", "in/outside": "untouched", "in/dst/": ""})
		limits := Limits{Files: 60, Bytes: 64 << 10}
		summary, err := Unpack(bytes.NewReader(data), dst, limits)
		checkOutside(t, base)
		if err != nil {
			checkRefusal(t, dst, err)
			return
		}
		if summary.Files > limits.Files || summary.Bytes > limits.Bytes {
			t.Fatalf("more than the limits: %+v", summary)
		}
		checkInside(t, dst)
		checkRepacks(t, dst)
	})
}
