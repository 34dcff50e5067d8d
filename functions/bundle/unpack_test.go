package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestUnpackAccepts(t *testing.T) {
	for _, test := range []struct {
		name    string
		entries []tar.Header
		want    tree
	}{
		{"nothing", nil, tree{}},
		{"dots", []tar.Header{folderOf("./"), file1("./a"), file1("b//c")}, tree{"a": "x", "b/c": "x"}},
		{"folders again", []tar.Header{folderOf("d/"), file1("d/a"), folderOf("d")}, tree{"d/a": "x"}},
		{"folder after its files", []tar.Header{file1("d/a"), folderOf("d")}, tree{"d/a": "x"}},
		{"link before its target", []tar.Header{linkOf("l", "d/a"), file1("d/a")}, tree{"l": "-> d/a", "d/a": "x"}},
		{"link up and back", []tar.Header{linkOf("d/l", "../a"), file1("a")}, tree{"d/l": "-> ../a", "a": "x"}},
		{"hard link", []tar.Header{file1("a"), hardLinkOf("d/b", "./a")}, tree{"a": "x", "d/b": "x"}},
		{"git archive", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "c0ffee"}}, file1("a")}, tree{"a": "x"}},
		{"modes", []tar.Header{
			{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o6777}, {Typeflag: tar.TypeReg, Name: "none", Mode: 0}, {Typeflag: tar.TypeReg, Name: "x", Mode: 0o001},
			{Typeflag: tar.TypeDir, Name: "d", Mode: 0o7000}, {Typeflag: tar.TypeReg, Name: "d/f", Mode: 0o4644},
		}, tree{"suid": "", "none": "", "x": "", "d/f": ""}},
		{"long name", []tar.Header{file1(strings.Repeat(strings.Repeat("n", 255)+"/", 15) + strings.Repeat("n", 200))}, tree{strings.Repeat(strings.Repeat("n", 255)+"/", 15) + strings.Repeat("n", 200): "x"}},
	} {
		dst := t.TempDir()
		_, err := Unpack(bytes.NewReader(archive(t, test.entries...)), dst, DefaultLimits())
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.name == "long name" {
			continue // longer than a path from the root may be; Unpack made it part by part
		}
		if diff := cmp.Diff(test.want, harvest(t, dst)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	const (
		outside = ", outside the folder; use a relative link inside it, or put the file itself there"
		kinds   = "; a bundle holds files, folders and links, so leave it out"
	)
	for _, test := range []struct {
		name    string
		entries []tar.Header
		want    string
	}{
		{"absolute", []tar.Header{file1("/etc/x")}, `entry "/etc/x": the name is absolute; pack the folder with relative names`},
		{"dot dot", []tar.Header{file1("../x")}, `entry "../x": the name holds ".."; pack the folder with names inside it`},
		{"inner dot dot", []tar.Header{file1("a/../b")}, `entry "a/../b": the name holds ".."; pack the folder with names inside it`},
		{"dot dot folder", []tar.Header{folderOf("..")}, `entry "..": the name holds ".."; pack the folder with names inside it`},
		{"backslash", []tar.Header{file1(`..\x`)}, `entry "..\\x": names cannot hold a backslash or NUL; rename it`},
		{"not UTF-8", []tar.Header{{Typeflag: tar.TypeReg, Name: "a\xff", Format: tar.FormatGNU}}, `entry "a\xff": the name is not UTF-8; rename it`},
		{"the folder itself", []tar.Header{file1(".")}, `entry "." stands twice, as a folder and as a file; keep one`},
		{"long part", []tar.Header{file1(strings.Repeat("n", 256))}, `entry "` + strings.Repeat("n", 200) + `…": "` + strings.Repeat("n", 200) + `…" has 256 bytes; at most 255 are allowed between slashes`},
		{"long name", []tar.Header{file1(strings.Repeat("abcdefg/", 512) + "x")}, `entry "` + strings.Repeat("abcdefg/", 25) + `…": the name has 4097 bytes; at most 4096 are allowed`},
		{"deep", []tar.Header{file1(strings.Repeat("d/", 128) + "x")}, `entry "` + strings.Repeat("d/", 100) + `…": folders nest more than 128 deep; make them flatter`},
		{"character device", []tar.Header{kindOf(tar.TypeChar, "a")}, `entry "a" is a device` + kinds},
		{"block device", []tar.Header{kindOf(tar.TypeBlock, "a")}, `entry "a" is a device` + kinds},
		{"pipe", []tar.Header{kindOf(tar.TypeFifo, "a")}, `entry "a" is a named pipe` + kinds},
		{"unknown type", []tar.Header{kindOf('Z', "a")}, `entry "a" is of the unknown tar type 'Z'` + kinds},
		{"link absolute", []tar.Header{linkOf("a", "/etc/passwd")}, `link "a" points to "/etc/passwd"` + outside},
		{"link above", []tar.Header{linkOf("d/a", "../../x")}, `link "d/a" points to "../../x"` + outside},
		{"link by way of another", []tar.Header{linkOf("x", "d/l/../.."), linkOf("d/l", "../d")}, `link "x" points to "d/l/../.."` + outside},
		{"link without target", []tar.Header{linkOf("a", "")}, `link "a": its target has 0 bytes; 1 to 4095 are allowed`},
		{"link circle", []tar.Header{linkOf("a", "b"), linkOf("b", "a/x")}, `link "a" points to "b", which goes in a circle or through more than 40 links; point it at the file`},
		{"through a link", []tar.Header{linkOf("a", "b"), file1("a/x")}, `entry "a/x" goes through "a", which is a link; give the entry a folder of its own`},
		{"through a file", []tar.Header{file1("a"), file1("a/b/x")}, `entry "a/b/x" goes through "a", which is a file; give the entry a folder of its own`},
		{"folder through a link", []tar.Header{linkOf("a", "."), folderOf("a/x")}, `entry "a/x" goes through "a", which is a link; give the entry a folder of its own`},
		{"file twice", []tar.Header{file1("a"), file1("./a")}, `entry "a" stands twice, as a file and as a file; keep one`},
		{"file then link", []tar.Header{file1("a"), linkOf("a", "b")}, `entry "a" stands twice, as a file and as a link; keep one`},
		{"link then file", []tar.Header{linkOf("a", "b"), file1("a")}, `entry "a" stands twice, as a link and as a file; keep one`},
		{"link then folder", []tar.Header{linkOf("a", "b"), folderOf("a")}, `entry "a" stands twice, as a link and as a folder; keep one`},
		{"folder then link", []tar.Header{file1("a/b"), linkOf("a", "c")}, `entry "a" stands twice, as a folder and as a link; keep one`},
		{"hard link outside", []tar.Header{hardLinkOf("a", "../x")}, `hard link "a" points to "../x", which is no name in the bundle; put the file itself there`},
		{"hard link absolute", []tar.Header{hardLinkOf("a", "/etc/passwd")}, `hard link "a" points to "/etc/passwd", which is no name in the bundle; put the file itself there`},
		{"hard link to nothing", []tar.Header{hardLinkOf("a", "b"), file1("b")}, `hard link "a" points to "b", which is not a file earlier in the bundle; put the file itself there`},
		{"hard link to a link", []tar.Header{linkOf("l", "x"), hardLinkOf("a", "l")}, `hard link "a" points to "l", which is not a file earlier in the bundle; put the file itself there`},
		{"hard link through a link", []tar.Header{file1("d/x"), linkOf("l", "d"), hardLinkOf("a", "l/x")}, `hard link "a" points to "l/x", which is not a file earlier in the bundle; put the file itself there`},
	} {
		refuse(t, test.name, archive(t, append([]tar.Header{file1("before/it")}, test.entries...)...), DefaultLimits(), wire.CodeInvalid, test.want)
	}
}

// refuse unpacks what must be refused, and checks that nothing is left.
func refuse(t *testing.T, name string, data []byte, limits Limits, code wire.Code, message string) {
	t.Helper()
	dst := t.TempDir()
	_, err := Unpack(bytes.NewReader(data), dst, limits)
	checkError(t, name, err, code, message)
	if left := harvest(t, dst); len(left) > 0 {
		t.Errorf("%s: left %v", name, left)
	}
}

func TestUnpackRefusesWhatIsNoBundle(t *testing.T) {
	const want = "; a gzip-compressed tar or a zip is expected; pack and send it again"
	whole := archive(t, fileOf("a", 3000), fileOf("b", 3000))
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-6] ^= 1 // in gzip's checksum, behind the last entry
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	must(t, w.Close())
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "the bundle is empty"},
		{"text", []byte("hello, this is no archive"), "the bundle is neither gzip nor zip, or something follows it"},
		{"plain tar", plain.Bytes(), "the bundle is neither gzip nor zip, or something follows it"},
		{"gzip of a short text", rezip(t, []byte("hello")), "the bundle ends too early"},
		{"gzip of a text", rezip(t, bytes.Repeat([]byte("hello "), 200)), "the bundle is damaged (archive/tar: invalid tar header)"},
		{"half", whole[:len(whole)/2], "the bundle ends too early"},
		{"without checksum", whole[:len(whole)-8], "the bundle ends too early"},
		{"wrong checksum", flipped, "the bundle is damaged (gzip: invalid checksum)"},
		{"something behind it", append(bytes.Clone(whole), "rubbish follows"...), "the bundle is neither gzip nor zip, or something follows it"},
	} {
		refuse(t, test.name, test.data, DefaultLimits(), wire.CodeInvalid, test.want+want)
	}
	for n := range len(whole) {
		if _, err := Unpack(bytes.NewReader(whole[:n]), t.TempDir(), DefaultLimits()); !wire.HasCode(err, wire.CodeInvalid) {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestUnpackHoldsTheLimits(t *testing.T) {
	limits := Limits{Files: 3, Bytes: 10}
	for name, entries := range map[string][]tar.Header{
		"files":      {file1("a"), file1("b"), file1("c")},
		"folders":    {file1("a/b/c")},
		"bytes":      {fileOf("a", 4), fileOf("b", 6)},
		"hard links": {fileOf("a", 5), hardLinkOf("b", "a")},
	} {
		if _, err := Unpack(bytes.NewReader(archive(t, entries...)), t.TempDir(), limits); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
	}
	const tooMany = "the bundle has more than 3 files, links and folders; make it smaller"
	tooMuch := func(at string) string {
		return `the bundle unpacks to more than 10 bytes, reached at "` + at + `"; make it smaller`
	}
	for _, test := range []struct {
		name    string
		entries []tar.Header
		want    string
	}{
		{"files", []tar.Header{file1("a"), file1("b"), file1("c"), file1("d")}, tooMany},
		{"links", []tar.Header{linkOf("a", "x"), linkOf("b", "x"), linkOf("c", "x"), linkOf("d", "x")}, tooMany},
		{"folders", []tar.Header{file1("a/b/c/d")}, tooMany},
		{"the same folder", []tar.Header{folderOf("a"), folderOf("a"), folderOf("a"), folderOf("a")}, tooMany},
		{"bytes", []tar.Header{fileOf("a", 5), fileOf("b", 6)}, tooMuch("b")},
		{"hard links", []tar.Header{fileOf("a", 4), hardLinkOf("b", "a"), hardLinkOf("c", "a")}, tooMuch("c")},
	} {
		refuse(t, test.name, archive(t, test.entries...), limits, wire.CodeTooLarge, test.want)
	}
}

// endless is a reader that counts what is taken from it.
type endless struct{ taken int64 }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.taken += int64(len(p))
	return len(p), nil
}

// A bomb is stopped when the limit is reached, not when it has gone off.
func TestUnpackStopsBombsEarly(t *testing.T) {
	limits := Limits{Files: 10, Bytes: 1 << 20}
	zeros := &endless{}
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		zipped := gzip.NewWriter(writer)
		err := tar.NewWriter(zipped).Close() // an empty tar, then zeros for ever
		if err == nil {
			_, err = io.Copy(zipped, zeros)
		}
		packed <- err
	}()
	dst := t.TempDir()
	_, err := Unpack(reader, dst, limits)
	must(t, reader.Close())
	if err := <-packed; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("packing ended with %v", err)
	}
	checkError(t, "padding", err, wire.CodeTooLarge, "the bundle unpacks to more than 1048576 bytes in 10 files allow; make it smaller")
	if zeros.taken > 64<<20 {
		t.Errorf("%d bytes were taken", zeros.taken)
	}

	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	header := fileOf("bomb", 1<<40) // announced; its content never comes
	must(t, tar.NewWriter(zipped).WriteHeader(&header))
	must(t, zipped.Close())
	refuse(t, "size", out.Bytes(), limits, wire.CodeTooLarge, `the bundle unpacks to more than 1048576 bytes, reached at "bomb"; make it smaller`)
}

func TestUnpackBoundsTheWorkForLinks(t *testing.T) {
	// A chain of links, each with a long target that begins at the one before.
	detour := strings.Repeat("d/../", 600)
	entries := []tar.Header{linkOf("l0", detour)}
	for i := range 2500 {
		before := min(i, 20)
		entries = append(entries, linkOf(fmt.Sprintf("l%d", i+1), fmt.Sprintf("l%d/%s", before, detour)))
	}
	dst := t.TempDir()
	_, err := Unpack(bytes.NewReader(archive(t, entries...)), dst, DefaultLimits())
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "too many and too long to follow") {
		t.Errorf("got %v", err)
	}
}

func TestUnpackReturnsTheReadersError(t *testing.T) {
	errSource := errors.New("the line is cut")
	whole := archive(t, fileOf("a", 3000), fileOf("b", 3000))
	for n := range len(whole) {
		dst := t.TempDir()
		_, err := Unpack(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(errSource)), dst, DefaultLimits())
		if !errors.Is(err, errSource) || wire.HasCode(err, wire.CodeInvalid) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if left := harvest(t, dst); len(left) > 0 {
			t.Fatalf("after %d bytes: left %v", n, left)
		}
	}
}

func TestUnpackNeedsAnEmptyFolder(t *testing.T) {
	dst := plant(t, t.TempDir(), tree{"mine": "x"})
	if _, err := Unpack(bytes.NewReader(archive(t, file1("a"))), dst, DefaultLimits()); err == nil {
		t.Error("it took a folder that is not empty")
	}
	if diff := cmp.Diff(tree{"mine": "x"}, harvestLoose(t, dst)); diff != "" {
		t.Error(diff)
	}
	if _, err := Unpack(bytes.NewReader(archive(t)), filepath.Join(dst, "none"), DefaultLimits()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

// Somebody who swaps folders for links while Unpack runs gains nothing.
func TestUnpackStaysInsideThroughRaces(t *testing.T) {
	outside, dst := t.TempDir(), t.TempDir()
	reader, writer := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		zipped := gzip.NewWriter(writer)
		w := tar.NewWriter(zipped)
		folder, first, second := folderOf("d"), fileOf("d/first", 0), fileOf("d/second", 0)
		// Unpack comes back for the second flush, which is empty, once it has
		// made what was in the first, and then waits for more.
		err := errors.Join(w.WriteHeader(&folder), w.WriteHeader(&first), zipped.Flush(), zipped.Flush())
		err = errors.Join(err, os.Remove(filepath.Join(dst, "d", "first")), os.Remove(filepath.Join(dst, "d")))
		err = errors.Join(err, os.Symlink(outside, filepath.Join(dst, "d")))
		sent <- errors.Join(err, w.WriteHeader(&second), zipped.Flush())
	}()
	_, err := Unpack(reader, dst, DefaultLimits())
	must(t, reader.Close())
	must(t, <-sent)
	if err == nil || !strings.Contains(err.Error(), "path escapes from parent") {
		t.Errorf("got %v", err)
	}
	if found := harvestLoose(t, outside); len(found) > 0 {
		t.Errorf("outside: %v", found)
	}
	if left := harvest(t, dst); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
