package cluster

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ClocksJump says that [Process.ShiftClock] works on this machine.
const ClocksJump = true

// A Go program reads its clocks by a function that the kernel maps into each process, of
// which the process can have a page of its own. jump leads from its beginning to hook,
// which asks the kernel and adds seconds, which stand behind it, to the wall clock alone.
var hook = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi (CLOCK_REALTIME is 0)
	0x75, 0x0a, // jnz to ret
	0x48, 0x8b, 0x0d, 0x04, 0x00, 0x00, 0x00, // mov rcx, [rip+4]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3, // ret
}

const (
	// offsetAt is where the seconds are behind the begin of the hook.
	offsetAt = 22
	jumpSize = 5
	hookRoom = 64
	// shiftTries bounds looking for a moment at which no thread reads the clock.
	shiftTries = 200
)

// ShiftClock makes the process's wall clock, and nobody else's, tell a time that is off by
// whole seconds, until it is shifted again or the process ends.
func (p *Process) ShiftClock(by time.Duration) error {
	pid := p.PID()
	if pid == 0 {
		return nil
	}
	if err := shiftClock(pid, by); err != nil && p.PID() == pid { // else it has ended meanwhile
		return fmt.Errorf("shift the clock of %s: %w", p.Name, err)
	}
	return nil
}

func shiftClock(pid int, by time.Duration) error {
	v, err := openVDSO(pid)
	if err != nil {
		return err
	}
	defer v.mem.Close()
	seconds := binary.LittleEndian.AppendUint64(nil, uint64(by/time.Second)) //nolint:gosec // two's complement, as the hook adds it
	if bytes.Equal(v.image[v.entry:v.entry+jumpSize], v.jump()) {            // done before
		return v.write(v.hook+offsetAt, seconds)
	}
	if slot := v.image[v.hook:]; !bytes.Equal(slot, make([]byte, len(slot))) {
		return errors.New("the kernel's page has no room")
	}
	if err := v.write(v.hook, append(bytes.Clone(hook), seconds...)); err != nil {
		return err
	}
	return v.stopped(func() error { return v.write(v.entry, v.jump()) })
}

// vdso is the kernel's code in a process.
type vdso struct {
	pid   int
	mem   *os.File
	base  int64
	image []byte
	// entry and hook are offsets in the image.
	entry, hook int64
}

func openVDSO(pid int) (*vdso, error) {
	v := &vdso{pid: pid}
	maps, err := os.ReadFile(v.file("maps"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		var end int64
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &v.base, &end); err != nil {
			return nil, err
		}
		v.image = make([]byte, end-v.base)
	}
	if v.image == nil {
		return nil, errors.New("it has no vDSO")
	}
	if v.mem, err = os.OpenFile(v.file("mem"), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(io.NewSectionReader(v.mem, v.base, int64(len(v.image))), v.image); err != nil {
		return nil, errors.Join(err, v.mem.Close())
	}
	if v.entry, err = clockFunction(v.image); err != nil {
		return nil, errors.Join(err, v.mem.Close())
	}
	v.hook = int64(len(v.image)) - hookRoom
	return v, nil
}

func clockFunction(image []byte) (int64, error) {
	parsed, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := parsed.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return int64(s.Value), nil //nolint:gosec // a place in a page or two
		}
	}
	return 0, errors.New("the vDSO has no clock_gettime")
}

func (v *vdso) file(name string) string {
	return "/proc/" + strconv.Itoa(v.pid) + "/" + name
}

func (v *vdso) jump() []byte {
	return binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(v.hook-v.entry-jumpSize)) //nolint:gosec // as above
}

func (v *vdso) write(at int64, data []byte) error {
	_, err := v.mem.WriteAt(data, v.base+at)
	return err
}

// stopped calls f while all threads of the process are stopped and none is where the jump
// will be.
func (v *vdso) stopped(f func() error) error {
	for range shiftTries {
		done, err := v.stoppedOnce(f)
		if done || err != nil {
			return err
		}
	}
	return errors.New("its threads do not leave the clock alone")
}

func (v *vdso) stoppedOnce(f func() error) (done bool, err error) {
	if err := unix.Kill(v.pid, unix.SIGSTOP); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.Kill(v.pid, unix.SIGCONT)) }()
	threads, err := filepath.Glob(v.file("task/*"))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		at, err := stoppedAt(thread)
		if err != nil {
			return false, err
		}
		if start := v.base + v.entry; at >= start && at < start+jumpSize {
			return false, nil
		}
	}
	return true, f()
}

// stoppedAt waits until a thread stands still and returns the address of what it would do
// next.
func stoppedAt(thread string) (int64, error) {
	for range shiftTries {
		state, err := os.ReadFile(filepath.Join(thread, "stat"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) { // the thread has ended
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if !strings.Contains(string(state), ") T ") {
			time.Sleep(time.Millisecond)
			continue
		}
		at, err := os.ReadFile(filepath.Join(thread, "syscall"))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(at))
		address, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		return int64(address), err //nolint:gosec // user space ends below
	}
	return 0, errors.New("a thread does not stop")
}
