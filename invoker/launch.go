package invoker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/entry"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// scriptName is where the shell of a runtime without a shim waits.
	scriptName = "assignment"
	// stemMemoryBytes and stemCPUShare bound a container that runs no function yet.
	stemMemoryBytes = 256 << 20
	stemCPUShare    = 100
	// stemBound limits starting a container until it waits for its function.
	stemBound = 30 * time.Second
	// scriptPause is how often a stem is asked whether its shell waits.
	scriptPause = time.Millisecond
)

// launch makes stems; it holds what is the same for all of a node.
type launch struct {
	node    wire.NodeID
	runDir  string // host folder with one folder per instance
	shimDir string
	sandbox sandbox.Sandbox
	roots   *rootCache
	// settings are those of all functions.
	settings *settings.Live
	// imageDir holds the program that images start with; empty where there is none.
	imageDir string
	// guard kills containers when the node cannot; nil for none.
	guard   *guard.Guard
	publish func(wire.LogEntry)
	// reach gets a function of a version what it wants of others.
	reach func(context.Context, wire.VersionID, runtimeapi.Outward) (runtimeapi.Inward, error)
	log   *slog.Logger
}

// stem starts a container that has its language loaded and waits for a function.
// On error nothing is left.
func (l *launch) stem(ctx context.Context, id wire.InstanceID, rt runtimes.Runtime, network string) (*instance, error) {
	for again := false; ; again = true {
		root, release, err := l.roots.hold(ctx, rt)
		if err != nil {
			return nil, err
		}
		in, err := l.stemOn(ctx, id, rt, network, root, release)
		if again || !errors.Is(err, sandbox.ErrNoRoot) {
			return in, err
		}
		l.roots.lost(root) // somebody removed it behind our back
	}
}

// stemOn is stem on a root that is there until release is called.
func (l *launch) stemOn(ctx context.Context, id wire.InstanceID, rt runtimes.Runtime, network string, root sandbox.Root, release func()) (*instance, error) {
	in := &instance{
		root: root, releaseRoot: release,
		id: id, launch: l, runtime: rt, dir: filepath.Join(l.runDir, string(id)),
		api: runtimeapi.New(), gone: make(chan struct{}),
	}
	in.maxConns.Store(maxConns)
	ctx, cancel := context.WithTimeout(ctx, stemBound)
	defer cancel()
	err := l.open(ctx, in, network)
	if err == nil {
		err = in.awaitStem(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a container for %s: %w", rt.Name, err), in.destroy(context.WithoutCancel(ctx)))
	}
	return in, nil
}

// open makes the folder, the log, the container and the Runtime API around it, and
// lets the runtime start when all of them are there.
func (l *launch) open(ctx context.Context, in *instance, network string) (err error) {
	if err := os.Mkdir(in.dir, 0o711); err != nil {
		return fmt.Errorf("make instance folder: %w", err)
	}
	if in.logs, err = newLogPipe(filepath.Join(in.dir, logName), in.emitStem); err != nil {
		return err
	}
	if !in.runtime.Shim {
		if err := unix.Mkfifo(filepath.Join(in.dir, scriptName), 0o644); err != nil {
			return fmt.Errorf("make assignment pipe: %w", err)
		}
	}
	unixListener, err := listenUnix(in.dir, socketName)
	if err != nil {
		return fmt.Errorf("open the Runtime API: %w", err)
	}
	in.server = &http.Server{
		Handler: in.api, MaxHeaderBytes: maxHeaderBytes, ConnState: in.admit,
		ErrorLog: slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	go in.serve(unixListener)
	if err := os.Chmod(filepath.Join(in.dir, socketName), 0o666); err != nil {
		return fmt.Errorf("open the Runtime API: %w", err)
	}
	if in.container, err = l.sandbox.Start(ctx, l.spec(in, network)); err != nil {
		return err
	}
	if in.hold, err = l.guard.Watch(in.container); err != nil && !errors.Is(err, sandbox.ErrEnded) {
		return err
	}
	go func() {
		<-in.container.Exited()
		in.hold.Release() // there is nothing left to kill, however long its removal takes
		in.api.End()
	}()
	tcpListener, err := in.container.Listen(runtimePort)
	if err != nil {
		return fmt.Errorf("open the Runtime API in the container: %w", err)
	}
	go in.serve(tcpListener)
	// Only now does the runtime start: until somebody reads its log, the shell waits.
	// Stock clients of the Runtime API do not try again when nobody listens yet.
	return in.logs.start()
}

// awaitStem waits until the runtime waits for its assignment.
func (in *instance) awaitStem(ctx context.Context) (err error) {
	asked := in.api.Asked()
	if !in.runtime.Shim {
		if in.script, err = openScript(ctx, filepath.Join(in.dir, scriptName), in.container.Exited()); err != nil {
			return err
		}
		return nil
	}
	select {
	case <-asked:
		return nil
	case <-in.container.Exited():
		return fmt.Errorf("%w: %s", errStemEnded, in.logs.end(""))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// openScript opens the FIFO for writing once the shell has it open for reading. A
// waiting open could not be broken off, so it is tried until it succeeds.
func openScript(ctx context.Context, path string, exited <-chan struct{}) (*os.File, error) {
	tick := time.NewTicker(scriptPause)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if !errors.Is(err, unix.ENXIO) {
			return f, err
		}
		select {
		case <-tick.C:
		case <-exited:
			return nil, errStemEnded
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// emitStem takes what a stem prints, which is the operator's.
func (in *instance) emitStem(_ wire.InvocationID, text string, _ bool) {
	in.launch.log.Debug("a stem printed", telemetry.KeyInstance, string(in.id), "text", text)
}

// emit sends what the instance prints to its function's log.
func (in *instance) emit(id wire.InvocationID, text string, last bool) {
	in.launch.publish(wire.LogEntry{
		Invocation: id, Version: in.version.VersionID, Node: in.launch.node, Instance: in.id,
		Time: time.Now(), Text: text, Last: last,
	})
}

// listenUnix listens on a socket in a folder, by way of the folder's descriptor: a
// socket's address holds no more than 107 bytes, and where the data is may be long.
func listenUnix(dir, name string) (net.Listener, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	address := &net.UnixAddr{Net: "unix", Name: "/proc/self/fd/" + strconv.Itoa(int(folder.Fd())) + "/" + name}
	l, err := net.ListenUnix("unix", address)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it goes with the folder; the descriptor may be another's then
	return l, nil
}

func (in *instance) serve(l net.Listener) {
	_ = in.server.Serve(l) // ends with the instance
}

// admit closes the connections that are more than the instance may have.
func (in *instance) admit(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if in.conns.Add(1) > in.maxConns.Load() {
			_ = c.Close()
		}
	case http.StateClosed:
		in.conns.Add(-1)
	}
}

// spec describes the container of a stem.
func (l *launch) spec(in *instance, network string) sandbox.Spec {
	logPath, scriptPath, program := runRoot+"/"+logName, runRoot+"/"+scriptName, l.shimDir
	var command []string
	switch _, image := in.runtime.Image(); {
	case image:
		command = []string{shimRoot + "/" + imageProgram, entry.Command, logPath, scriptPath}
		program = l.imageDir
	case in.runtime.Shim:
		// The shell hands its place to the runtime after pointing its output at the log.
		command = append([]string{"/bin/sh", "-c", `exec "$0" "$@" >>` + logPath + ` 2>&1`}, in.runtime.Command...)
	default:
		command = []string{"/bin/sh", "-c", `exec >>` + logPath + ` 2>&1; . ` + scriptPath}
	}
	return sandbox.Spec{
		Instance: in.id,
		Root:     in.root,
		Command:  command,
		Env:      l.environment(in.id),
		WorkDir:  "/",
		Mounts: []sandbox.Mount{
			{Source: program, Target: shimRoot, ReadOnly: true},
			{Source: in.dir, Target: runRoot, ReadOnly: true},
		},
		Tmpfs: []sandbox.Tmpfs{
			{Target: "/tmp", Bytes: tmpBytes, Mode: 0o777 | os.ModeSticky, Exec: true},
			{Target: outputRoot, Bytes: wire.MaxOutputBytes, Mode: 0o777 | os.ModeSticky},
			{Target: functions.SecretsRoot, Bytes: secretsBytes, Mode: 0o755}, // root's
		},
		Limits: sandbox.Limits{
			MemoryBytes: stemMemoryBytes, CPUMillis: maxCPUMillis, CPUShareMillis: stemCPUShare,
			PIDs: maxPIDs, OpenFiles: maxFiles, FileBytes: maxFileBytes,
		},
		Network: sandbox.Network(network),
		UID:     functionUID, GID: functionUID,
	}
}

// environment is what every stem is started with.
func (l *launch) environment(id wire.InstanceID) []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=/tmp",
		"LANG=C.UTF-8",
		"TZ=UTC",
		"AWS_LAMBDA_RUNTIME_API=127.0.0.1:" + strconv.Itoa(runtimePort),
		"AWS_LAMBDA_LOG_STREAM_NAME=" + string(id),
		"LAMBDA_TASK_ROOT=" + taskRoot,
		"LAMBDA_RUNTIME_DIR=" + shimRoot,
		"DAYFLY_RUNTIME_SOCKET=" + runRoot + "/" + socketName,
		"DAYFLY_NODE=" + string(l.node),
		"DAYFLY_INSTANCE=" + string(id),
		"DAYFLY_OUTPUT_DIR=" + outputRoot,
	}
}
