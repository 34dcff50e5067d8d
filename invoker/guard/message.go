package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message in bytes.
const maxMessage = 64 << 10

// sendBound limits sending one message to a guard that does not read.
const sendBound = time.Second

// What a message asks for.
const (
	// opReach says how to reach the cluster, opWord what to tell it in the end.
	opReach = "reach"
	opWord  = "word"
	// opWatch comes with the pidfd of a container, which opForget gives up.
	opWatch  = "watch"
	opForget = "forget"
	// opEnd says that the invoker ends in order.
	opEnd = "end"
)

// message is what an invoker tells its guard. Each is one packet.
type message struct {
	Op   string `json:"op"`
	Slot int    `json:"slot,omitempty"`

	NATS        string `json:"nats,omitempty"`
	Credentials string `json:"credentials,omitempty"`

	Subject string `json:"subject,omitempty"`
	Word    []byte `json:"word,omitempty"`

	pidfd *os.File // goes with opWatch
}

// pair makes the two ends of a channel for messages.
func pair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "guard")
	theirs = os.NewFile(uintptr(fds[1]), "invoker")
	defer func() { _ = mine.Close() }() // FileConn has a copy
	conn, err := net.FileConn(mine)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("use a socket pair: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil //nolint:forcetypeassert // of a unix socket it is one
}

// send sends a message. One about a container whose pidfd is closed already is not
// worth sending: that it is given up follows.
func send(conn *net.UnixConn, m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(sendBound)); err != nil {
		return err
	}
	if m.pidfd == nil {
		_, _, err = conn.WriteMsgUnix(data, nil, nil)
		return err
	}
	raw, err := m.pidfd.SyscallConn()
	if err != nil {
		return nil //nolint:nilerr // it is closed
	}
	_ = raw.Control(func(fd uintptr) { // or it is closed meanwhile
		_, _, err = conn.WriteMsgUnix(data, unix.UnixRights(int(fd)), nil)
	})
	return err
}

// receive waits for one message on a socket. It is errGone when the other end is gone.
// The caller closes the pidfd, which opWatch has and no other.
func receive(socket int) (m message, pidfd int, err error) {
	data := make([]byte, maxMessage)
	rights := make([]byte, unix.CmsgSpace(4))
	var n, nRights int
	for {
		n, nRights, _, _, err = unix.Recvmsg(socket, data, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err == nil && n == 0, errors.Is(err, unix.ECONNRESET):
		return m, -1, errGone
	case err != nil:
		return m, -1, fmt.Errorf("listen to the invoker: %w", err)
	}
	pidfd = descriptorIn(rights[:nRights])
	err = json.Unmarshal(data[:n], &m)
	switch {
	case err != nil:
		err = fmt.Errorf("a message is malformed: %w", err)
	case m.Op == opWatch && pidfd < 0: // this process may have no room for it
		err = errors.New("a container is to be watched, and its descriptor is missing; raise the limit of open files (ulimit -n)")
	case m.Op != opWatch && pidfd >= 0:
		err = fmt.Errorf("a message %q comes with a descriptor", m.Op)
	default:
		return m, pidfd, nil
	}
	if pidfd >= 0 {
		_ = unix.Close(pidfd)
	}
	return m, -1, err
}

// descriptorIn is the one that came with a message, or -1.
func descriptorIn(rights []byte) int {
	parsed, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(parsed) != 1 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&parsed[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	return fds[0]
}

var errGone = errors.New("the invoker is gone")
