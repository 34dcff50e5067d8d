// Command probe is what the conformance suite runs inside containers: each verb
// does one thing that a function might, and writes what came of it to /out/log.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const self = "/probe/probe"

func main() {
	log, err := os.OpenFile("/out/log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		os.Exit(120)
	}
	os.Stdout = log
	verbs := map[string]func(args []string) error{
		"exit": exit, "wait": wait, "tree": tree, "orphan": orphan, "deaf": deaf, "spin": spin, "storm": storm,
		"pids": pids, "files": files, "eat": eat, "fill": fill, "attack": attack, "run": run, "status": status,
		"env": env, "net": network, "dial": dial, "serve": serve, "links": links, "burn": burn, "privileges": privileges,
	}
	if err := verbs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func exit(args []string) error {
	code, err := strconv.Atoi(args[0])
	if err == nil {
		os.Exit(code)
	}
	return err
}

func wait([]string) error {
	fmt.Println("ready")
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for {
		time.Sleep(time.Hour)
	}
}

// child starts this program again, in a session of its own where asked.
func child(setsid bool, args ...string) error {
	c := exec.Command(self, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: setsid}
	return c.Start()
}

// tree starts every kind of process that is hard to end.
func tree([]string) error {
	err := errors.Join(child(true, "orphan"), child(true, "deaf"), child(false, "deaf"), child(false, "spin"), child(true, "spin"))
	if err != nil {
		return err
	}
	return wait(nil)
}

// orphan leaves a daemon behind whose parents are gone.
func orphan([]string) error { return child(true, "deaf") }

func deaf([]string) error {
	signal.Ignore()
	fmt.Println("deaf")
	for {
		time.Sleep(time.Hour)
	}
}

func spin([]string) error {
	signal.Ignore()
	fmt.Println("spin")
	for {
		runtime.KeepAlive(0)
	}
}

// storm starts processes as fast as it can, and never stops.
func storm([]string) error {
	refused := sync.OnceFunc(func() { fmt.Println("ready") })
	for {
		if child(true, "deaf") != nil {
			refused()
		}
	}
}

func pids([]string) error {
	for n := 0; ; n++ {
		if err := child(false, "deaf"); err != nil {
			fmt.Println("pids", n, err)
			return nil
		}
	}
}

func files([]string) error {
	for n := 0; ; n++ {
		if _, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0); err != nil {
			fmt.Println("files", n, err)
			return nil
		}
	}
}

// eat touches that many MiB of memory once there is a file of that name, as a function
// does nothing before its node holds it.
func eat(args []string) error {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(args[1]); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	data := make([]byte, mib<<20)
	for i := 0; i < len(data); i += 4096 {
		data[i] = 1
	}
	fmt.Println("ate", len(data))
	return nil
}

// fill writes a file until that fails.
func fill(args []string) error {
	signal.Ignore(syscall.SIGXFSZ)
	f, err := os.Create(filepath.Join(args[0], "file"))
	if err != nil {
		return err
	}
	written := 0
	for {
		n, err := f.Write(make([]byte, 64<<10))
		written += n
		if err != nil {
			fmt.Println("filled", written, err)
			return nil
		}
	}
}

// attack tries to change a folder that has the file "known".
func attack(args []string) error {
	known, fresh := filepath.Join(args[0], "known"), filepath.Join(args[0], "fresh")
	try := func(what string, err error) {
		if err == nil {
			fmt.Println("BROKEN", what)
			return
		}
		fmt.Println("refused", what, err)
	}
	overwrite := func() error {
		f, err := os.OpenFile(known, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		return err
	}
	try("create", os.WriteFile(fresh, nil, 0o644))
	try("write", overwrite())
	try("truncate", os.Truncate(known, 0))
	try("chmod", os.Chmod(known, 0o777))
	try("chown", os.Chown(known, os.Getuid(), os.Getgid()))
	try("times", os.Chtimes(known, time.Now(), time.Now()))
	try("unlink", os.Remove(known))
	try("rename", os.Rename(known, fresh))
	try("link", os.Link(known, fresh))
	try("mkdir", os.Mkdir(fresh, 0o755))
	try("remount", syscall.Mount("", args[0], "", syscall.MS_REMOUNT|syscall.MS_BIND, ""))
	try("unmount", syscall.Unmount(args[0], syscall.MNT_DETACH))
	try("mount over", syscall.Mount("tmpfs", args[0], "tmpfs", 0, ""))
	fmt.Println("done")
	return nil
}

// run copies this program to a folder and runs it there.
func run(args []string) error {
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	path := filepath.Join(args[0], "program")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		return err
	}
	fmt.Println("run:", exec.Command(path, "exit", "0").Run())
	return nil
}

func status([]string) error {
	content, err := os.ReadFile("/proc/self/status")
	fmt.Println(string(content))
	return err
}

func env([]string) error { return json.NewEncoder(os.Stdout).Encode(os.Environ()) }

// network prints the interfaces and the routes.
func network([]string) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		fmt.Println("interface", i.Name, addresses, err)
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(routes)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] != "Iface" {
			fmt.Println("route", fields[0], fields[1])
		}
	}
	return nil
}

// dial connects to each address, tcp:// or udp://, and prints what it is told.
func dial(args []string) error {
	for _, a := range args {
		protocol, address, _ := strings.Cut(a, "://")
		fmt.Println("dial", a, talk(protocol, address))
	}
	return nil
}

func talk(protocol, address string) string {
	c, err := net.DialTimeout(protocol, address, 3*time.Second)
	if err != nil {
		return "refused: " + err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return "refused: " + err.Error()
	}
	answer, err := io.ReadAll(io.LimitReader(c, 5))
	if len(answer) == 0 {
		return fmt.Sprint("refused: ", err)
	}
	return "reached: " + string(answer)
}

// serve listens on a port of all interfaces and says "hello".
func serve(args []string) error {
	l, err := net.Listen("tcp4", "0.0.0.0:"+args[0])
	if err != nil {
		return err
	}
	addresses, err := net.InterfaceAddrs()
	fmt.Println("serving", addresses, err)
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, _ = c.Write([]byte("hello"))
		_ = c.Close()
	}
}

// links fills a folder with links that lead out of it, and one file that is fine.
func links(args []string) error {
	dir := args[0]
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "good"), []byte("good"), 0o644),
		os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")),
		os.Symlink("../../../../../../etc/passwd", filepath.Join(dir, "relative")),
		os.Symlink("/etc", filepath.Join(dir, "folder")),
		os.Symlink("../..", filepath.Join(dir, "up")),
		os.Symlink("/proc/self/root/etc/passwd", filepath.Join(dir, "magic")),
		os.Symlink("good", filepath.Join(dir, "inside")),
	)
	if err != nil {
		return err
	}
	return wait(nil)
}

// burn uses as many cores as it gets for a second, and prints the CPU time.
func burn([]string) error {
	begun := time.Now()
	var group sync.WaitGroup
	for range runtime.NumCPU() {
		group.Go(func() {
			for time.Since(begun) < time.Second {
				runtime.KeepAlive(0)
			}
		})
	}
	group.Wait()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	used := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	fmt.Println("burnt", used.Milliseconds(), time.Since(begun).Milliseconds())
	return nil
}

// privileges tries system calls that need some.
func privileges([]string) error {
	try := func(what string, err error) {
		if err == nil {
			fmt.Println("BROKEN", what)
			return
		}
		fmt.Println("refused", what, err)
	}
	try("setuid", syscall.Setuid(0))
	try("mknod", syscall.Mknod("/tmp/device", syscall.S_IFBLK|0o666, 7<<8))
	try("mount", syscall.Mount("proc", "/tmp", "proc", 0, ""))
	try("chroot", syscall.Chroot("/tmp"))
	try("user namespace", syscall.Unshare(syscall.CLONE_NEWUSER))
	try("network namespace", syscall.Unshare(syscall.CLONE_NEWNET))
	try("host name", syscall.Sethostname([]byte("mine")))
	try("reboot", syscall.Reboot(syscall.LINUX_REBOOT_CMD_CAD_OFF))
	_, _, e := syscall.Syscall(syscall.SYS_KEXEC_LOAD, 0, 0, 0)
	try("kexec", errno(e))
	_, _, e = syscall.Syscall(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, 1<<20, 0)
	try("ptrace of nobody", errno(e))
	_, _, e = syscall.Syscall(syscall.SYS_ADD_KEY, 0, 0, 0)
	try("kernel keys", errno(e))
	try("write /proc/sys", os.WriteFile("/proc/sys/kernel/core_pattern", []byte("|/x"), 0o644))
	try("write /sys", os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("never"), 0o644))
	fmt.Println("done")
	return nil
}

func errno(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
