package invoker

import (
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sampleItems bounds what is looked at before each use of an artifact: some 0.2 ms.
const sampleItems = 128

// seal is what the file system said of an artifact's files right after they were
// unpacked. Whoever writes to a file, or adds or removes one, changes the time of
// the last change, which nobody can set. What it does not show is a disk that
// forgets; see [contentSum].
type seal struct {
	// Sum is over the metadata of all files and folders, Sample some of them, evenly
	// spread; all, when they are few.
	Sum    [sha256.Size]byte
	Sample []item
	// Bytes is the size of all files.
	Bytes int64
}

// item is one file or folder.
type item struct {
	Path string // below the artifact's folder
	Mode uint32
	Size int64
	// Modified and Changed are times in nanoseconds.
	Modified, Changed int64
}

var errSealBroken = errors.New("it is not as it was unpacked")

// itemAt looks at one file or folder. The size of a folder says nothing.
func itemAt(dir, path string) (item, error) {
	var s unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, path), &s); err != nil {
		return item{}, fmt.Errorf("%s: %w", path, err)
	}
	i := item{Path: path, Mode: s.Mode, Size: s.Size, Modified: s.Mtim.Nano(), Changed: s.Ctim.Nano()}
	if s.Mode&unix.S_IFMT == unix.S_IFDIR {
		i.Size = 0
	}
	return i, nil
}

// sealOf seals what is in a folder.
func sealOf(dir string) (s seal, err error) {
	var items []item
	sum := sha256.New()
	err = walkCode(dir, func(path string, _ fs.DirEntry) error {
		i, err := itemAt(dir, path)
		if err != nil {
			return err
		}
		items = append(items, i)
		s.Bytes += i.Size
		_, err = fmt.Fprintf(sum, "%q %o %d %d %d\n", i.Path, i.Mode, i.Size, i.Modified, i.Changed)
		return err
	})
	if err != nil {
		return seal{}, err
	}
	sum.Sum(s.Sum[:0])
	step := max(1, (len(items)+sampleItems-1)/sampleItems)
	for i := 0; i < len(items); i += step {
		s.Sample = append(s.Sample, items[i])
	}
	return s, nil
}

// walkCode calls visit for the folder, as ".", and for all that is in it, in order.
func walkCode(dir string, visit func(path string, e fs.DirEntry) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		return visit(path, e)
	})
}

// glance compares the sample with what is there now.
func (s seal) glance(dir string) error {
	for _, was := range s.Sample {
		switch now, err := itemAt(dir, was.Path); {
		case err != nil:
			return err
		case now != was:
			return fmt.Errorf("%s: %w", was.Path, errSealBroken)
		}
	}
	return nil
}

// verify compares all that is there now.
func (s seal) verify(dir string) error {
	now, err := sealOf(dir)
	if err == nil && now.Sum != s.Sum {
		err = errSealBroken
	}
	return err
}

// contentSum is over the content of all files.
func contentSum(dir string) (sum [sha256.Size]byte, err error) {
	all := sha256.New()
	err = walkCode(dir, func(path string, e fs.DirEntry) error {
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(all, f)
		return err
	})
	all.Sum(sum[:0])
	return sum, err
}

// writeSeal keeps a seal in a file.
func writeSeal(path string, s seal) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return gob.NewEncoder(f).Encode(s)
}

// readSeal reads a seal that writeSeal wrote.
func readSeal(path string) (s seal, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	return s, gob.NewDecoder(f).Decode(&s)
}
