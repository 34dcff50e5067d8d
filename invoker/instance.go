package invoker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/net/netutil"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// What an instance finds inside; runtimes and SDKs rely on it.
const (
	taskRoot    = "/var/task"
	shimRoot    = "/opt/dayfly"
	runRoot     = "/run/dayfly"
	outputRoot  = "/mnt/output"
	socketName  = "runtime.sock"
	logName     = "log"
	runtimePort = 9001
	functionUID = 65532

	tmpBytes = 64 << 20
	maxPIDs  = 256
	maxFiles = 1024
	// maxCPUMillis is what one instance may use of idle cores.
	maxCPUMillis = 1000
	// maxConns and maxHeaderBytes bound what one instance takes of the Runtime API: a
	// function must not use up the node's descriptors and memory.
	maxConns       = 32
	maxHeaderBytes = 64 << 10
	// exitGrace is how long a process that reported a failed start may take to end.
	exitGrace = 100 * time.Millisecond
	// removeBound limits removing an instance; what is left then, the next start's
	// sweep takes.
	removeBound = 30 * time.Second
)

// errDeadline is the cause of a context that ended at the function's timeout.
var errDeadline = errors.New("deadline passed")

// instance is one container that runs one version.
type instance struct {
	id        wire.InstanceID
	version   functions.Version
	dir       string // host folder shown at runRoot
	api       *runtimeapi.API
	server    *http.Server
	logs      *logPipe
	container sandbox.Container
	initTook  time.Duration
	// releaseCode lets the cache remove the code; called once nothing runs it.
	releaseCode func()
	gone        chan struct{} // closed when the instance is removed
}

// launch holds what is the same for all instances of a node.
type launch struct {
	node    wire.NodeID
	runDir  string // host folder with one folder per instance
	shimDir string
	sandbox sandbox.Sandbox
	root    func(runtimes.Runtime) sandbox.Root
	log     *slog.Logger
}

// start makes an instance and waits until its runtime asks for an event. A failure
// of the function to start is a [*wire.Error] of the function; all others are the
// platform's. On error nothing is left.
func (l *launch) start(ctx context.Context, id wire.InstanceID, v functions.Version, code string, first wire.InvocationID, emit emitLog) (*instance, error) {
	rt, ok := runtimes.Lookup(v.Spec.Runtime)
	if !ok {
		return nil, wire.Errorf(wire.CodeInvalid, "runtime %q is not known to node %s; upgrade the node", v.Spec.Runtime, l.node)
	}
	begun := time.Now()
	in := &instance{id: id, version: v, dir: filepath.Join(l.runDir, string(id)), gone: make(chan struct{})}
	in.api = runtimeapi.New(runtimeapi.Assignment{Handler: v.Spec.Handler, TaskRoot: taskRoot, Env: v.Spec.Env})
	if err := l.open(ctx, in, rt, code, first, emit); err != nil {
		return nil, errors.Join(err, in.destroy(context.WithoutCancel(ctx)))
	}
	if err := in.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, in.destroy(context.WithoutCancel(ctx)))
	}
	in.initTook = time.Since(begun)
	return in, nil
}

// open makes the folder, the log, the container and the Runtime API around it, and
// lets the runtime start when all of them are there.
func (l *launch) open(ctx context.Context, in *instance, rt runtimes.Runtime, code string, first wire.InvocationID, emit emitLog) (err error) {
	if err := os.Mkdir(in.dir, 0o711); err != nil {
		return fmt.Errorf("make instance folder: %w", err)
	}
	if in.logs, err = newLogPipe(filepath.Join(in.dir, logName), first, emit); err != nil {
		return err
	}
	socket := filepath.Join(in.dir, socketName)
	unixListener, err := listenUnix(in.dir, socketName)
	if err != nil {
		return fmt.Errorf("open the Runtime API: %w", err)
	}
	in.server = &http.Server{Handler: in.api, MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(l.log.Handler(), slog.LevelDebug)}
	go in.serve(unixListener)
	if err := os.Chmod(socket, 0o666); err != nil {
		return fmt.Errorf("open the Runtime API: %w", err)
	}
	if in.container, err = l.sandbox.Start(ctx, l.spec(in, rt, code)); err != nil {
		return err
	}
	go func() {
		<-in.container.Exited()
		in.api.End()
	}()
	tcpListener, err := in.container.Listen(runtimePort)
	if err != nil {
		// A process that ended at once has no network left to listen in.
		select {
		case <-in.container.Exited():
			return in.exitError()
		case <-time.After(exitGrace):
		}
		return fmt.Errorf("open the Runtime API in the container: %w", err)
	}
	go in.serve(tcpListener)
	// Only now does the runtime start: until somebody reads its log, the shell waits.
	// Stock clients of the Runtime API do not try again when nobody listens yet.
	return in.logs.open()
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
	_ = in.server.Serve(netutil.LimitListener(l, maxConns)) // ends with the instance
}

// spec describes the container of an instance.
func (l *launch) spec(in *instance, rt runtimes.Runtime, code string) sandbox.Spec {
	s := in.version.Spec
	// The shell hands its place to the runtime after pointing its output at the log.
	command := append([]string{"/bin/sh", "-c", `exec "$0" "$@" >>` + runRoot + "/" + logName + ` 2>&1`}, rt.Command...)
	return sandbox.Spec{
		Instance: in.id,
		Root:     l.root(rt),
		Command:  command,
		Env:      l.environment(in),
		WorkDir:  taskRoot,
		Mounts: []sandbox.Mount{
			{Source: code, Target: taskRoot, ReadOnly: true},
			{Source: l.shimDir, Target: shimRoot, ReadOnly: true},
			{Source: in.dir, Target: runRoot, ReadOnly: true},
		},
		Tmpfs: []sandbox.Tmpfs{
			{Target: "/tmp", Bytes: tmpBytes, Mode: 0o777 | os.ModeSticky, Exec: true},
			{Target: outputRoot, Bytes: min(wire.MaxOutputBytes, s.MemoryBytes), Mode: 0o777 | os.ModeSticky},
		},
		Limits: sandbox.Limits{
			MemoryBytes: s.MemoryBytes, CPUMillis: max(maxCPUMillis, s.CPUMillis), CPUShareMillis: s.CPUMillis,
			PIDs: maxPIDs, OpenFiles: maxFiles, FileBytes: max(tmpBytes, wire.MaxOutputBytes),
		},
		Network: sandbox.Network(s.Network),
		UID:     functionUID, GID: functionUID,
	}
}

func (l *launch) environment(in *instance) []string {
	v := in.version
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=/tmp",
		"LANG=C.UTF-8",
		"TZ=UTC",
		"AWS_LAMBDA_RUNTIME_API=127.0.0.1:" + strconv.Itoa(runtimePort),
		"DAYFLY_RUNTIME_SOCKET=" + runRoot + "/" + socketName,
		"_HANDLER=" + v.Spec.Handler,
		"LAMBDA_TASK_ROOT=" + taskRoot,
		"LAMBDA_RUNTIME_DIR=" + shimRoot,
		"AWS_LAMBDA_FUNCTION_NAME=" + v.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=" + strconv.Itoa(v.Number),
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.FormatInt(v.Spec.MemoryBytes>>20, 10),
		"AWS_LAMBDA_LOG_GROUP_NAME=/dayfly/" + v.Namespace + "/" + v.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + string(in.id),
		"DAYFLY_NAMESPACE=" + v.Namespace,
		"DAYFLY_NODE=" + string(l.node),
		"DAYFLY_INSTANCE=" + string(in.id),
		"DAYFLY_OUTPUT_DIR=" + outputRoot,
	}
	for k, value := range v.Spec.Env {
		env = append(env, k+"="+value)
	}
	return env
}

// awaitReady waits for the runtime's first call, its report of failure, its end or
// the time limit.
func (in *instance) awaitReady(ctx context.Context) error {
	limit := time.NewTimer(wire.InitTimeout)
	defer limit.Stop()
	select {
	case <-in.api.Ready():
		return nil
	case e := <-in.api.InitFailed():
		select { // let it finish printing
		case <-in.container.Exited():
		case <-time.After(exitGrace):
		}
		return in.initError(e)
	case <-in.container.Exited():
		select { // it said why before it ended
		case e := <-in.api.InitFailed():
			return in.initError(e)
		default:
			return in.exitError()
		}
	case <-limit.C:
		in.container.Kill()
		return &wire.Error{
			Code: wire.CodeFunctionTimeout, Logs: in.logs.end(),
			Message: fmt.Sprintf("the function did not ask for its first event within %s of its start", wire.InitTimeout),
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (in *instance) initError(e *wire.Error) *wire.Error {
	e.Message = "the function did not start: " + e.Message
	e.Logs = in.logs.end()
	return e
}

// invoke runs one event. Its error is a [*wire.Error] of the function, or the
// platform's. reusable says whether the instance may run another event.
func (in *instance) invoke(ctx context.Context, id wire.InvocationID, payload []byte) (result []byte, reusable bool, err error) {
	timeout := in.version.Spec.Timeout()
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errDeadline)
	defer cancel()
	in.logs.begin(id)
	result, err = in.api.Invoke(ctx, runtimeapi.Event{ID: id, Payload: payload, Deadline: deadline, ARN: in.arn()})
	switch {
	case errors.Is(err, errDeadline):
		in.container.Kill()
		err = &wire.Error{
			Code:    wire.CodeFunctionTimeout,
			Message: fmt.Sprintf("the function ran into its timeout of %s and was killed", timeout),
		}
	case errors.Is(err, runtimeapi.ErrEnded):
		err = in.exitError()
	case errors.Is(err, errStopped):
		in.container.Kill()
	case errors.Is(err, runtimeapi.ErrNotDelivered):
		return nil, false, err
	case err == nil && !json.Valid(result):
		err = &wire.Error{
			Code: wire.CodeFunctionError, Type: "Runtime.InvalidResponse",
			Message: fmt.Sprintf("the function's result is no JSON: it begins with %.40q", result),
		}
		reusable = true
	default:
		// Alive and answered, well or with an error of its own.
		reusable = ctx.Err() == nil
	}
	tail := in.logs.end()
	if e, ok := errors.AsType[*wire.Error](err); ok && e.Logs == "" {
		e.Logs = tail
	}
	return result, reusable, err
}

// exitError says how the process ended. Call it once Exited is closed.
func (in *instance) exitError() *wire.Error {
	exit := in.container.Exit()
	e := &wire.Error{Code: wire.CodeFunctionExited, Logs: in.logs.end()}
	switch {
	case exit.OutOfMemory:
		e.Code = wire.CodeFunctionOutOfMemory
		e.Message = fmt.Sprintf("the function used more than its %d MiB of memory and was killed; raise memory in %s",
			in.version.Spec.MemoryBytes>>20, functions.ManifestName)
	case exit.Code > 128:
		e.Message = fmt.Sprintf("the function's process was ended by signal %d", exit.Code-128)
	default:
		e.Message = fmt.Sprintf("the function's process ended with status %d", exit.Code)
	}
	return e
}

func (in *instance) arn() string {
	v := in.version
	return "arn:dayfly:lambda:local:" + v.Namespace + ":function:" + v.Name + ":" + strconv.Itoa(v.Number)
}

// destroy removes all that there is of the instance. It may be called on one that
// was only half made, and again after an error.
func (in *instance) destroy(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, removeBound)
	defer cancel()
	if in.container != nil {
		in.container.Kill()
	}
	if in.server != nil {
		err = errors.Join(err, in.server.Close())
	}
	if in.container != nil {
		err = errors.Join(err, in.container.Remove(ctx))
	}
	if in.logs != nil {
		in.logs.close()
	}
	return errors.Join(err, os.RemoveAll(in.dir))
}
