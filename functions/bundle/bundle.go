// Package bundle turns a function's folder into one gzip-compressed tar and
// back. Users upload bundles, the builder makes artifacts, nodes unpack them:
// all three are the same format. What others have packed as a zip is read as well.
//
// Both directions hold the same rules. A bundle consists of regular files,
// folders and links that stay inside it; everything else is refused with a
// [*wire.Error] that names the entry. Owners, times and all permissions but
// "executable" are dropped, so that equal content has equal bytes.
package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Summary says what a bundle holds.
type Summary struct {
	// Files counts files and links, not folders.
	Files int
	// Bytes is the size of the files, unpacked.
	Bytes int64
}

// Limits bound a bundle, unpacked. What reaches them exactly still passes.
type Limits struct {
	// Files bounds files, links and folders together.
	Files int
	// Bytes bounds the size of the files.
	Bytes int64
}

// DefaultLimits are those of every bundle that is uploaded.
func DefaultLimits() Limits {
	return Limits{Files: wire.MaxBundleFiles, Bytes: wire.MaxBundleUnpacked}
}

// RequireManifest reports whether dir can be deployed: it must hold a manifest
// as a regular file. Its error is a [*wire.Error] with code invalid.
func RequireManifest(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return invalid("the folder %s does not exist; name the one that holds %s", dir, functions.ManifestName)
	}
	info, err := os.Lstat(filepath.Join(dir, functions.ManifestName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return invalid("no %s in %s; create one or name another folder", functions.ManifestName, dir)
	case err != nil:
		return invalid("cannot read the folder %s: %v", dir, reason(err))
	case !info.Mode().IsRegular():
		return invalid("%s in %s is not a regular file; replace it with one", functions.ManifestName, dir)
	}
	return nil
}

// Permissions of everything in a bundle.
const (
	modePlain      fs.FileMode = 0o644
	modeExecutable fs.FileMode = 0o755
	modeFolder     fs.FileMode = 0o755
)

// normalMode keeps of a file's permissions only whether it is executable.
func normalMode(mode fs.FileMode) fs.FileMode {
	if mode&0o111 != 0 {
		return modeExecutable
	}
	return modePlain
}

// tally counts a bundle while it is read and stops it at the limits.
type tally struct {
	limits  Limits
	advice  string
	entries int
	Summary
}

// entry counts one more file, link or folder.
func (t *tally) entry() error {
	t.entries++
	if t.entries > t.limits.Files {
		return wire.Errorf(wire.CodeTooLarge, "the bundle has more than %d files, links and folders; %s", t.limits.Files, t.advice)
	}
	return nil
}

// bytes counts the content of the file called name.
func (t *tally) bytes(name string, n int64) error {
	if n > t.limits.Bytes-t.Bytes {
		return wire.Errorf(wire.CodeTooLarge, "the bundle unpacks to more than %d bytes, reached at %s; %s", t.limits.Bytes, quote(name), t.advice)
	}
	t.Bytes += n
	return nil
}

func invalid(format string, args ...any) error {
	return wire.Errorf(wire.CodeInvalid, format, args...)
}

// quote shows a name from a bundle, which may be long and hold anything.
func quote(name string) string {
	const most = 200
	if len(name) > most {
		name = name[:most] + "…"
	}
	return strconv.Quote(name)
}

// reason is an error without the path that the message around it already names.
func reason(err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err
	}
	return err
}
