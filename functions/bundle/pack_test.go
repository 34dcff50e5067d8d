package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestPackThenUnpack(t *testing.T) {
	dir := plant(t, t.TempDir(), tree{
		"dayfly.yaml":            "name: a\n",
		"bootstrap":              "#!/bin/sh\n",
		"src/deep/er/app.py":     "print()",
		"src/empty.txt":          "",
		"src/up":                 "-> ../bootstrap",
		"src/also":               "-> deep/er/app.py",
		"dangling":               "-> src/nowhere",
		"through":                "-> here/er/app.py",
		"here":                   "-> src/deep",
		"itself":                 "-> .",
		"name with ünïcode\n":    "x",
		"nothing/in/here/":       "",
		strings.Repeat("l", 255): "long",
	})
	packed, packedSummary := pack(t, dir)
	dst := t.TempDir()
	unpackedSummary, err := Unpack(bytes.NewReader(packed), dst, DefaultLimits())
	must(t, err)
	want := harvestLoose(t, dir)
	if diff := cmp.Diff(want, harvest(t, dst)); diff != "" {
		t.Error(diff)
	}
	if want := (Summary{Files: 12, Bytes: 8 + 10 + 7 + 1 + 4}); packedSummary != want || unpackedSummary != want {
		t.Errorf("packed %+v, unpacked %+v, want %+v", packedSummary, unpackedSummary, want)
	}
	if info, err := os.Stat(filepath.Join(dst, "bootstrap")); err != nil || info.Mode() != modeExecutable {
		t.Errorf("bootstrap: %v, %v", info.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder was kept: %v", err)
	}
}

// harvestLoose reads a folder whose modes are as they may be.
func harvestLoose(t *testing.T, dir string) tree {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		info, err := d.Info()
		must(t, err)
		if d.IsDir() {
			return os.Chmod(full, modeFolder)
		}
		return os.Chmod(full, normalMode(info.Mode()))
	}))
	return harvest(t, dir)
}

// The tar itself is a contract: artifacts are named by the digest of its bytes.
func TestPackedForm(t *testing.T) {
	dir := plant(t, t.TempDir(), tree{"b": "#!", "a/z": "zz", "a-b": "", "a/link": "-> z"})
	packed, _ := pack(t, dir)
	zipped, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	if !zipped.ModTime.IsZero() || zipped.Name != "" {
		t.Errorf("gzip header %+v", zipped.Header)
	}
	var got []tar.Header
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		got = append(got, *h)
	}
	epoch := time.Unix(0, 0)
	want := []tar.Header{
		{Typeflag: tar.TypeReg, Name: "a-b", Mode: 0o644, ModTime: epoch, Format: tar.FormatUSTAR},
		{Typeflag: tar.TypeSymlink, Name: "a/link", Linkname: "z", Mode: 0o777, ModTime: epoch, Format: tar.FormatUSTAR},
		{Typeflag: tar.TypeReg, Name: "a/z", Size: 2, Mode: 0o644, ModTime: epoch, Format: tar.FormatUSTAR},
		{Typeflag: tar.TypeReg, Name: "b", Size: 2, Mode: 0o755, ModTime: epoch, Format: tar.FormatUSTAR},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPackLeavesOut(t *testing.T) {
	dir := plant(t, t.TempDir(), tree{
		".dayflyignore":           "*.log\n!keep.log\n/build\ndayfly.yaml\nlocked/\n",
		"dayfly.yaml":             "x",
		"a.log":                   "x",
		"sub/keep.log":            "x",
		"build/out":               "x",
		"sub/build/out":           "x",
		"sub/.dayflyignore":       "x",
		".git/config":             "x",
		"sub/.git":                "x",
		".dayfly/cache":           "x",
		"lib/__pycache__/a.pyc":   "x",
		"lib/.DS_Store":           "x",
		"node_modules/.cache/x":   "x",
		"node_modules/left-pad/i": "x",
		".cache/x":                "x",
		"locked/out":              "-> /etc/passwd",
	})
	packed, _ := pack(t, dir)
	dst := t.TempDir()
	_, err := Unpack(bytes.NewReader(packed), dst, DefaultLimits())
	must(t, err)
	want := tree{
		"dayfly.yaml": "x", "sub/keep.log": "x", "sub/build/out": "x", "sub/.dayflyignore": "x",
		"node_modules/left-pad/i": "x", ".cache/x": "x",
	}
	if diff := cmp.Diff(want, harvest(t, dst)); diff != "" {
		t.Error(diff)
	}
}

func TestPackRefusesLinks(t *testing.T) {
	const advice = ", outside the folder; use a relative link inside it, or put the file itself there"
	for _, test := range []struct {
		name    string
		content tree
		want    string
	}{
		{"absolute", tree{"a": "-> /etc/passwd"}, `link "a" points to "/etc/passwd"` + advice},
		{"above", tree{"d/a": "-> ../../x"}, `link "d/a" points to "../../x"` + advice},
		{"above from the top", tree{"a": "-> ../x"}, `link "a" points to "../x"` + advice},
		{"through a link", tree{"x": "-> d/l/../..", "d/l": "-> ../d", "d/f": ""}, `link "x" points to "d/l/../.."` + advice},
		{"through a link by name", tree{"x": "-> l/f", "l": "-> ../"}, `link "l" points to "../"` + advice},
		{"circle", tree{"a": "-> b", "b": "-> a"}, `link "a" points to "b", which goes in a circle or through more than 40 links; point it at the file`},
		{"backslash", tree{"a": `-> ..\x`}, `link "a": its target "..\\x" holds a backslash or NUL; rename it`},
		{"not UTF-8", tree{"a": "-> \xff"}, `link "a": its target "\xff" is not UTF-8; rename it`},
	} {
		_, err := Pack(plant(t, t.TempDir(), test.content), io.Discard)
		checkError(t, test.name, err, wire.CodeInvalid, test.want)
	}
}

func TestPackRefusesWhatIsNoFile(t *testing.T) {
	const advice = "; a bundle holds files, folders and links, so remove it or name it in .dayflyignore"
	pipe := t.TempDir()
	must(t, syscall.Mkfifo(filepath.Join(pipe, "p"), 0o600))
	_, err := Pack(pipe, io.Discard)
	checkError(t, "pipe", err, wire.CodeInvalid, `"p" is a named pipe`+advice)

	socket := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(socket, "s"))
	must(t, err)
	defer listener.Close()
	_, err = Pack(socket, io.Discard)
	checkError(t, "socket", err, wire.CodeInvalid, `"s" is a socket`+advice)

	err = checkKind("null", fs.ModeDevice|fs.ModeCharDevice|0o666)
	checkError(t, "device", err, wire.CodeInvalid, `"null" is a device`+advice)
}

func TestPackRefusesNamesAndFolders(t *testing.T) {
	_, err := Pack(plant(t, t.TempDir(), tree{`a\b`: ""}), io.Discard)
	checkError(t, "backslash", err, wire.CodeInvalid, `entry "a\\b": names cannot hold a backslash or NUL; rename it`)
	_, err = Pack(plant(t, t.TempDir(), tree{"a\xff": ""}), io.Discard)
	checkError(t, "not UTF-8", err, wire.CodeInvalid, `entry "a\xff": the name is not UTF-8; rename it`)
	_, err = Pack(plant(t, t.TempDir(), tree{strings.Repeat("d/", 128) + "f": ""}), io.Discard)
	if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "folders nest more than 128 deep") {
		t.Errorf("deep: %v", err)
	}
	dir := t.TempDir()
	_, err = Pack(filepath.Join(dir, "none"), io.Discard)
	checkError(t, "missing", err, wire.CodeInvalid,
		"cannot open the folder "+dir+"/none: no such file or directory; name a folder that you may read")
	_, err = Pack(plant(t, t.TempDir(), tree{IgnoreName: "-> /etc/passwd"}), io.Discard)
	checkError(t, "ignore file", err, wire.CodeInvalid, ".dayflyignore is not a regular file; replace it with one")
}

func TestPackReportsUnreadableFiles(t *testing.T) {
	if os.Getuid() == 0 {
		// Root reads everything; the message is the same for any other failure.
		checkError(t, "unreadable", unreadable("f", &fs.PathError{Op: "openat", Path: "f", Err: syscall.EACCES}), wire.CodeInvalid,
			`cannot read "f": permission denied; make it readable or name it in .dayflyignore`)
		return
	}
	dir := plant(t, t.TempDir(), tree{"f": "x"})
	must(t, os.Chmod(filepath.Join(dir, "f"), 0))
	_, err := Pack(dir, io.Discard)
	checkError(t, "unreadable", err, wire.CodeInvalid, `cannot read "f": permission denied; make it readable or name it in .dayflyignore`)
}

// Between the scan and the reading, files may change under Pack.
func TestPackNoticesChanges(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(path string) error
	}{
		{"longer", func(path string) error { return os.WriteFile(path, []byte("longer"), 0o644) }},
		{"shorter", func(path string) error { return os.Truncate(path, 0) }},
		{"link", func(path string) error { return errors.Join(os.Remove(path), os.Symlink("other", path)) }},
		{"pipe", func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) }},
	} {
		dir := plant(t, t.TempDir(), tree{"f": "four", "other": "four"})
		root, err := os.OpenRoot(dir)
		must(t, err)
		info, err := root.Lstat("f")
		must(t, err)
		must(t, test.change(filepath.Join(dir, "f")))
		s := scanner{root: root}
		err = s.writeFile(tar.NewWriter(io.Discard), file{"f", info})
		checkError(t, test.name, err, wire.CodeInvalid, `"f" changed while it was packed; try again when nothing writes to it`)
		must(t, root.Close())
	}
}

func TestPackHoldsTheLimits(t *testing.T) {
	dir := plant(t, t.TempDir(), tree{"small": ""})
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(wire.MaxBundleUnpacked+1)) // takes no disk
	must(t, f.Close())
	_, err = Pack(dir, io.Discard)
	checkError(t, "bytes", err, wire.CodeTooLarge,
		`the bundle unpacks to more than 262144000 bytes, reached at "sparse"; leave some out with .dayflyignore`)

	root, err := os.OpenRoot(plant(t, t.TempDir(), tree{"a/b/c": "", "d": ""}))
	must(t, err)
	defer root.Close()
	for limit, ok := range map[int]bool{3: false, 4: true} {
		s := scanner{root: root, links: links{}, tally: tally{limits: Limits{Files: limit, Bytes: 0}, advice: packAdvice}}
		if _, err := s.folder("."); (err == nil) != ok || (!ok && !wire.HasCode(err, wire.CodeTooLarge)) {
			t.Errorf("4 entries, limit %d: %v", limit, err)
		}
	}

	var out bytes.Buffer
	w := &boundedWriter{w: &out, left: 3}
	_, err = w.Write([]byte("123"))
	must(t, err)
	_, err = w.Write([]byte("4"))
	checkError(t, "packed", writeError(err), wire.CodeTooLarge,
		"the bundle has more than 104857600 bytes, compressed; leave some out with .dayflyignore")
}

var errSink = errors.New("sink is full")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errSink }

func TestPackReturnsTheWritersError(t *testing.T) {
	_, err := Pack(plant(t, t.TempDir(), tree{"a": "x"}), brokenWriter{})
	if !errors.Is(err, errSink) || wire.HasCode(err, wire.CodeInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestRequireManifest(t *testing.T) {
	must(t, RequireManifest(plant(t, t.TempDir(), tree{"dayfly.yaml": ""})))
	dir := t.TempDir()
	checkError(t, "none", RequireManifest(dir), wire.CodeInvalid, "no dayfly.yaml in "+dir+"; create one or name another folder")
	checkError(t, "no folder", RequireManifest(dir+"/x"), wire.CodeInvalid, "the folder "+dir+"/x does not exist; name the one that holds dayfly.yaml")
	plant(t, dir, tree{"dayfly.yaml": "-> other", "other": ""})
	checkError(t, "link", RequireManifest(dir), wire.CodeInvalid, "dayfly.yaml in "+dir+" is not a regular file; replace it with one")
	checkError(t, "file", RequireManifest(dir+"/other"), wire.CodeInvalid, "cannot read the folder "+dir+"/other: not a directory")
}

func TestIgnore(t *testing.T) {
	for _, test := range []struct{ rules, in, out string }{
		{"a", "b ab", "a x/a x/y/a/"},
		{"/a", "x/a", "a a/"},
		{"a/", "a x/a", "a/ x/a/"},
		{"a/b", "b x/a/b", "a/b"},
		{"*.py", "a.pyc py", "a.py x/.py"},
		{"a*c", "a/c b", "ac abc abbc"},
		{"a?c", "ac abbc", "abc"},
		{"**/a", "b", "a x/a x/y/a"},
		{"a/**", "a/ a x/a/b", "a/b a/b/c"},
		{"a/**/z", "a/b z", "a/z a/b/z a/b/c/z"},
		{"a/**/m/**/z", "a/m a/z", "a/m/z a/b/m/c/d/z a/m/m/z"},
		{"**", "dayfly.yaml", "a a/b"},
		{"*\n!a", "a x/a", "b"},
		{"!a\n*", "", "a b"},
		{"# a\n\n  \nb  \r\n", "a #", "b"},
		{"*.py[cod]", "a.py a.pyx", "a.pyc x/b.pyo"},
		{"[!a-c]x", "ax cx", "dx y/zx"},
		{`\#a`, "a", "#a"},
		{`\!a`, "a", "!a"},
		{`a\*`, "ab", "a*"},
		{"a/*\n!a/b", "a a/b", "a/c"},
		{"build/\n!build/keep", "build", "build/"},
		{"docs/*.md", "docs/x/a.md y/docs/a.md", "docs/a.md"},
		{"dayfly.yaml", "dayfly.yaml", "x/dayfly.yaml .dayflyignore"},
		{"!.git\n!__pycache__", "x/.dayflyignore", ".git x/.git/ __pycache__/ .DS_Store .dayfly node_modules/.cache a/node_modules/.cache/"},
	} {
		rules, err := parseIgnore([]byte(test.rules))
		must(t, err)
		for want, names := range map[bool]string{false: test.in, true: test.out} {
			for name := range strings.FieldsSeq(names) {
				bare, isFolder := strings.CutSuffix(name, "/")
				if got := ignored(rules, bare, isFolder); got != want {
					t.Errorf("%q: %s: ignored is %v", test.rules, name, got)
				}
			}
		}
	}
}

func TestIgnoreRefuses(t *testing.T) {
	for _, test := range []struct{ rules, want string }{
		{"a\n[ab", `.dayflyignore:2: "[ab" is malformed; close every [ with a ], and end no name with \`},
		{`a\`, `.dayflyignore:1: "a\\" is malformed; close every [ with a ], and end no name with \`},
		{"!", `.dayflyignore:1: "!" matches nothing; write names inside the folder`},
		{"../a", `.dayflyignore:1: "../a" matches nothing; write names inside the folder`},
		{strings.Repeat("a\n", 1001), `.dayflyignore:1001: more than 1000 lines with patterns; use wider ones`},
	} {
		_, err := parseIgnore([]byte(test.rules))
		checkError(t, test.rules[:min(len(test.rules), 9)], err, wire.CodeInvalid, test.want)
	}
	dir := plant(t, t.TempDir(), tree{IgnoreName: strings.Repeat("#", maxIgnoreBytes+1)})
	_, err := Pack(dir, io.Discard)
	checkError(t, "long", err, wire.CodeInvalid, ".dayflyignore has 65537 bytes; at most 65536 are allowed")
}

// Matching stays quick for the worst patterns: this would take for ever if the
// work grew with the number of ** in the exponent.
func TestIgnoreIsQuick(t *testing.T) {
	pattern := parseRule(strings.Repeat("**/a/", 60) + "b").parts
	name := slices.Repeat([]string{"a"}, 2000)
	if matchParts(pattern, name) {
		t.Error("matches")
	}
}
