package builder

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dayfly-run/dayfly/wire"
)

// errMixed ends a walk: there are programs for several architectures.
var errMixed = errors.New("mixed")

// archOf returns what the programs and libraries in dir were made for, as Go names it;
// empty when there are none, or some for each of several, of which the function takes
// the one that fits.
func archOf(dir string) (string, error) {
	found := ""
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		arch, err := archOfFile(path)
		switch {
		case err != nil:
			return err
		case arch == "" || arch == found:
			return nil
		case found == "":
			found = arch
			return nil
		}
		return errMixed
	})
	switch {
	case errors.Is(err, errMixed):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read artifact: %w", err)
	}
	return found, nil
}

// elfHeader is how much of a file says what it was made for.
const elfHeader = 20

// archOfFile reads the beginning of a file; it returns nothing for one that is no
// program or library for Linux, or for a machine that no node is.
func archOfFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	header := make([]byte, elfHeader)
	switch _, err := io.ReadFull(f, header); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "", nil
	case err != nil:
		return "", err
	case string(header[:4]) != elf.ELFMAG || header[elf.EI_CLASS] != byte(elf.ELFCLASS64) || header[elf.EI_DATA] != byte(elf.ELFDATA2LSB):
		return "", nil
	}
	switch elf.Machine(uint16(header[18]) | uint16(header[19])<<8) { //nolint:exhaustive // nodes are one of these
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", nil
}

// checkArch refuses what no node that the function asks for would run.
func checkArch(t task, arch string) error {
	want := t.spec.NodeSelector[wire.LabelArch]
	if want == "" || arch == "" || want == arch {
		return nil
	}
	return wire.Errorf(wire.CodeInvalid,
		"nodeSelector asks for nodes with %s=%s, and the function's programs were made for %s; build it on a machine of that kind, or change nodeSelector",
		wire.LabelArch, want, arch)
}
