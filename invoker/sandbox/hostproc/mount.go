package hostproc

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// MountReadOnly shows a folder of the host at a path inside the process's mount
// namespace, read-only. The mount is made apart and moved in when it is finished:
// it never stands on the host, so nothing is left there whatever happens, and
// there is no moment at which it could be written through. It needs Linux 5.12.
func (p *Process) MountReadOnly(source, target string) error {
	inside, err := p.open("ns/mnt")
	if err != nil {
		return err
	}
	defer inside.Close()
	// The namespace's own root may lie above the container's: that is so when this
	// program runs in a chroot.
	root, err := p.open("root")
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open %s for mounting: %w", source, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("make the mount of %s read-only: %w", source, err)
	}
	err = apart(func() error { return moveIn(int(inside.Fd()), int(root.Fd()), tree, target) })
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

// moveIn attaches a mount below a root in another mount namespace, from inside of
// it, so that no link in target can lead anywhere else.
func moveIn(namespace, root, tree int, target string) error {
	// Go's threads share their working directory, which a thread that changes its
	// mount namespace may not.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := errors.Join(unix.Fchdir(root), unix.Chroot(".")); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
