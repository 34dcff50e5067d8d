// Package sandbox is the seam to whatever makes containers.
package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"github.com/dayfly-run/dayfly/wire"
)

// ErrUnavailable: the engine behind the sandbox does not answer, or fails by itself. What
// failed may be tried again.
var ErrUnavailable = errors.New("container engine does not answer, or fails")

// ErrOverLimit: a container uses more already than it was to be limited to.
var ErrOverLimit = errors.New("uses more than that already")

// ErrNoRoot: the container's root file system is not there, or not any more.
var ErrNoRoot = errors.New("the root file system is not there")

// ErrRootInUse: a container runs on that root file system.
var ErrRootInUse = errors.New("the root file system is in use")

// ErrEnded: a container's process has ended, and what was to be done with it is not
// possible any more. [Container.Exited] may be closed a little later.
var ErrEnded = errors.New("the container's process has ended")

// Sandbox makes containers for one owner, a node. All methods are safe for
// concurrent use and honour their context.
type Sandbox interface {
	// Kind is the sandbox's name: docker, fake.
	Kind() string
	// Check returns nil when containers can be made, or an error that says what
	// to do; it wraps [ErrUnavailable] when the engine does not answer.
	Check(ctx context.Context) error
	// EnsureRoot makes a root file system ready for use, unless it is already.
	EnsureRoot(ctx context.Context, root Root) error
	// Roots lists the root file systems that are there, whoever needed them.
	Roots(ctx context.Context) ([]StoredRoot, error)
	// RemoveRoot removes a root file system, or fails with [ErrRootInUse]. One that is
	// not there is no error.
	RemoveRoot(ctx context.Context, root Root) error
	// Start makes a container and starts its command. Its root is ready before, or
	// else the error is [ErrNoRoot]. On error it leaves nothing, unless the engine is
	// gone: then Sweep takes the rest.
	Start(ctx context.Context, spec Spec) (Container, error)
	// Sweep removes whatever this owner's earlier runs left behind, and nothing
	// else, and returns the number of containers. It must not be called while
	// containers of this run live.
	Sweep(ctx context.Context) (int, error)
	// Close gives back what the sandbox itself holds. All containers are removed
	// before.
	Close(ctx context.Context) error
}

// Root is a root file system by content.
type Root struct {
	Name   string
	Digest wire.Digest
	// Open reads it as an uncompressed tar; called only when it is missing.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// StoredRoot is a root file system that is there; its Open is nil.
type StoredRoot struct {
	Root
	// Bytes is about what it takes on disk.
	Bytes int64
}

// Spec describes a container. Paths are absolute.
type Spec struct {
	Instance wire.InstanceID
	Root     Root
	Command  []string
	Env      []string
	WorkDir  string
	Mounts   []Mount
	Tmpfs    []Tmpfs
	Limits   Limits
	Network  Network
	// UID and GID run the command.
	UID, GID int
	// WritableRoot allows writes outside of the mounts, for builds.
	WritableRoot bool
}

// Mount shows a folder of the host inside.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Tmpfs is a folder in memory, which counts against the container's memory.
type Tmpfs struct {
	Target string
	Bytes  int64
	Mode   os.FileMode
	// Exec allows programs there to run.
	Exec bool
}

// Limits bound a container; the kernel enforces them.
type Limits struct {
	MemoryBytes int64
	// CPUMillis is the most that it may use; CPUShareMillis is its part of a
	// busy machine. Both in thousandths of a core.
	CPUMillis, CPUShareMillis int64
	PIDs                      int64
	OpenFiles                 int64
	// FileBytes bounds the size of one file.
	FileBytes int64
}

// Network is what a container may reach.
type Network string

// Networks. All have a loopback of their own.
const (
	NetworkNone Network = "none"
	// NetworkEgress reaches public addresses, no private ranges and not the host.
	NetworkEgress Network = "egress"
	NetworkOpen   Network = "open"
)

// Container is a started container. All methods are safe for concurrent use.
type Container interface {
	// Listen opens a TCP listener on the container's own loopback, served from
	// outside. The caller closes it.
	Listen(port int) (net.Listener, error)
	// OpenDir opens a folder inside the container. No name in it, link or not,
	// leads out of it. The caller closes it.
	OpenDir(path string) (*os.Root, error)
	// Mount shows a folder of the host inside the running container, read-only for
	// whoever is inside, at a folder that is there.
	Mount(source, target string) error
	// SetLimits changes what the running container may use of memory, CPU and
	// processes; other limits stay as they were started with. A memory limit below
	// what it uses already is [ErrOverLimit], or the container's end.
	SetLimits(l Limits) error
	// Exited is closed when its first process has ended.
	Exited() <-chan struct{}
	// Exit says how it ended, once Exited is closed; before, its Code is -1.
	Exit() Exit
	// Kill ends every process of the container at once, by SIGKILL, and does not
	// wait. It is idempotent.
	Kill()
	// Remove kills what runs, waits for its end and removes every trace. It is
	// idempotent; after an error it may be called again.
	Remove(ctx context.Context) error
}

// Held is a container that is a process of this machine. It is safe for concurrent use.
type Held interface {
	// Pidfd returns a pidfd of its first process, so that another process may kill the
	// container; of one that has ended, [ErrEnded]. The caller closes it.
	Pidfd() (*os.File, error)
}

// Exit is how a container's first process ended.
type Exit struct {
	// Code is the exit status, 128 + the signal, or -1 when it cannot be known: the
	// engine was lost meanwhile. Then it is no failure of what ran inside.
	Code int
	// OutOfMemory says that the kernel ended it at its memory limit.
	OutOfMemory bool
}
