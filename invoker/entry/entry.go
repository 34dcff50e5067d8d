// Package entry is the first program in the container of a user's image. An image need
// not have a shell, so the node's own binary is shown inside, read-only, and waits
// there as a stem: it points its output at the instance's log, reads what it shall
// become from a pipe, and is that from then on, by exec. Nothing of it stays.
package entry

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Command is the argument that makes the binary this program; the paths of the log and
// of the pipe follow it.
const Command = "exec-instance"

// maxAssignment bounds what is read from the pipe, in bytes.
const maxAssignment = 1 << 20

// Exit codes, as a shell has them.
const (
	exitBroken     = 125
	exitNotStarted = 126
	exitNotFound   = 127
)

// Assignment is what the program shall become.
type Assignment struct {
	Args []string `json:"args"`
	// Env is the whole environment; its PATH is where Args[0] is looked for.
	Env []string `json:"env"`
	Dir string   `json:"dir"`
}

// Encode writes an assignment as the pipe carries it.
func (a Assignment) Encode() ([]byte, error) { return json.Marshal(a) }

// Wanted says whether a command line asks for this program.
func Wanted(args []string) bool { return len(args) == 4 && args[1] == Command }

// Run is the program; it returns the exit code when it could not become another.
func Run(args []string) int {
	// Waits until somebody reads: the Runtime API is there by then.
	log, err := open(args[2], syscall.O_WRONLY|syscall.O_APPEND)
	if err != nil {
		return exitBroken
	}
	for _, fd := range []int{1, 2} {
		if err := syscall.Dup3(log, fd, 0); err != nil {
			return exitBroken
		}
	}
	a, err := await(args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "dayfly: the assignment could not be read:", err)
		return exitBroken
	}
	if err := os.Chdir(a.Dir); err != nil {
		fmt.Fprintf(os.Stderr, "dayfly: the image's working directory cannot be entered: %s; it must be open to any user\n", err)
		return exitNotStarted
	}
	program, err := find(a)
	if err != nil {
		fmt.Fprintf(os.Stderr, "dayfly: the image has no program %q: %s; check its ENTRYPOINT and CMD\n", a.Args[0], err)
		return exitNotFound
	}
	err = syscall.Exec(program, a.Args, a.Env)
	fmt.Fprintf(os.Stderr, "dayfly: %s cannot be started: %s; it must be an executable for linux that any user may read\n", program, err)
	return exitNotStarted
}

// open opens a pipe, which waits for its other end.
func open(path string, flags int) (fd int, err error) {
	for {
		fd, err = syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

// await reads the assignment.
func await(path string) (a Assignment, err error) {
	fd, err := open(path, syscall.O_RDONLY)
	if err != nil {
		return a, err
	}
	pipe := os.NewFile(uintptr(fd), path)
	defer pipe.Close()
	data, err := io.ReadAll(io.LimitReader(pipe, maxAssignment))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, err
	}
	if len(a.Args) == 0 {
		return a, errors.New("it names no program")
	}
	return a, nil
}

// find looks for the program as a shell does, by the PATH that it will have.
func find(a Assignment) (string, error) {
	name := a.Args[0]
	if strings.Contains(name, "/") {
		_, err := os.Stat(name)
		return name, err
	}
	for _, dir := range filepath.SplitList(variable(a.Env, "PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", errors.New("it is in no folder of PATH")
}

// variable returns the last value that an environment gives a name.
func variable(env []string, name string) (value string) {
	for _, v := range env {
		if text, ok := strings.CutPrefix(v, name+"="); ok {
			value = text
		}
	}
	return value
}

// Place puts the program at path, for containers to be shown: as a second name of
// binary where that does, as a copy else. It fails for a binary that needs libraries,
// which no image has to have.
func Place(binary, path string) error {
	file, err := elf.Open(binary)
	if err != nil {
		return fmt.Errorf("read the program %s: %w", binary, err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("the program %s needs libraries; build it with CGO_ENABLED=0", binary)
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	info, err := os.Stat(binary)
	if err == nil && info.Mode().Perm()&0o005 == 0o005 && os.Link(binary, path) == nil {
		return nil
	}
	return copyProgram(binary, path)
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o755), out.Close()) // whatever the umask is
}
