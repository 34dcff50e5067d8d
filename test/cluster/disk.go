package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is a small file system in memory.
type disk struct {
	path    string // as its process sees it
	starter *starter
}

func (s *starter) disk(path string, megabytes int) (disk, error) {
	if err := os.MkdirAll(path, 0o711); err != nil { //nolint:gosec // functions reach into it as other users
		return disk{}, err
	}
	err := s.do(func() error {
		return unix.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0711", megabytes))
	})
	if err != nil {
		return disk{}, fmt.Errorf("mount %s: %w", path, err)
	}
	return disk{path: path, starter: s}, nil
}

func (d disk) ballast() string { return filepath.Join(d.starter.root, d.path, "ballast") }

// fill leaves no room at all.
func (d disk) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := make([]byte, 1<<20)
	for {
		if _, err := f.Write(chunk); err != nil {
			if errors.Is(err, unix.ENOSPC) { // after as many pages as there was room for
				return nil
			}
			return err
		}
	}
}

// free makes room again.
func (d disk) free() error {
	if err := os.Remove(d.ballast()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
