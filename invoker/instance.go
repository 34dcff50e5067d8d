package invoker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/invoker/guard"
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

	tmpBytes     = 64 << 20
	maxFileBytes = max(tmpBytes, wire.MaxOutputBytes)
	maxPIDs      = 256
	maxFiles     = 1024
	// maxCPUMillis is what one instance may use of idle cores.
	maxCPUMillis = 1000
	// maxConns and maxHeaderBytes bound what one instance takes of the Runtime API: a
	// function must not use up the node's descriptors and memory. Each further event
	// at once may use some more: one asks while the other answers, and 16 call others.
	maxConns       = 32
	eventConns     = 18
	maxHeaderBytes = 64 << 10
	// killedCode is the exit status of a process that SIGKILL ended.
	killedCode = 128 + int(unix.SIGKILL)
	// exitGrace is how long a process that reported a failed start may take to end.
	exitGrace = 100 * time.Millisecond
	// removeBound limits removing an instance; what is left then, the next start's
	// sweep takes.
	removeBound = 30 * time.Second
)

// errDeadline is the cause of a context that ended at the function's timeout.
var errDeadline = errors.New("deadline passed")

// instance is one container: first a stem, then bound to one version for good.
type instance struct {
	id        wire.InstanceID
	launch    *launch
	runtime   runtimes.Runtime
	root      sandbox.Root
	version   functions.Version // set by bind
	dir       string            // host folder shown at runRoot
	api       *runtimeapi.API
	server    *http.Server
	logs      *logPipe
	container sandbox.Container
	hold      *guard.Hold   // the guard's, which may be nil
	script    *os.File      // where a runtime without a shim waits for its assignment
	initTook  time.Duration // what its first call waited for it
	timedOut  atomic.Bool   // one of its invocations did, or was cancelled, and it was killed for that
	conns     atomic.Int64  // to the Runtime API
	maxConns  atomic.Int64
	// settings are those of the function; set by bind.
	settings *settings.Follower
	// secretEnv and secretFiles are the secrets as the function has them: variables, and
	// files by name. The latter belong to bind, and then to followSecrets.
	secretEnv   map[string]string
	secretFiles map[string]functions.Secret
	// releaseCode lets the cache remove the code; called once nothing runs it.
	releaseCode func()
	// releaseRoot lets the node remove the root; called once the container is removed.
	releaseRoot func()
	gone        chan struct{} // closed when the instance is removed
}

// errStemEnded: a stem's process ended before it was a function. Another may do.
var errStemEnded = errors.New("the container ended before it had its function")

// bind makes a stem an instance of a version: limits, code, assignment. It waits
// until the runtime asks for an event. What it prints until then is that of the first
// invocation, if there is one. code is empty for an image, which has its own. A failure
// of the function to start is a [*wire.Error] of the function; all others are the
// platform's.
func (in *instance) bind(ctx context.Context, v functions.Version, code string, first wire.InvocationID) error {
	in.version = v
	in.logs.adopt(in.emit, v.Spec.Concurrency > 1)
	if first != "" {
		in.logs.begin(first)
	}
	in.api.SetConcurrency(v.Spec.Concurrency)
	in.api.SetReach(func(ctx context.Context, o runtimeapi.Outward) (runtimeapi.Inward, error) {
		return in.launch.reach(ctx, v.VersionID, o)
	})
	in.settings = in.launch.settings.Follow(v.FunctionID)
	in.api.SetConfiguration(in.settings.Config)
	in.maxConns.Store(maxConns + eventConns*int64(v.Spec.Concurrency-1))
	err := in.container.SetLimits(functionLimits(v.Spec))
	if errors.Is(err, sandbox.ErrOverLimit) {
		return &wire.Error{
			Code: wire.CodeFunctionOutOfMemory,
			Message: fmt.Sprintf("the runtime %s alone takes more than the function's %d MiB of memory; raise memory in %s",
				v.Spec.Runtime, v.Spec.MemoryBytes>>20, functions.ManifestName),
		}
	}
	if err == nil && code != "" {
		err = in.container.Mount(code, taskRoot)
	}
	if err == nil {
		err = in.loadSecrets(ctx)
	}
	if err == nil {
		err = in.assign()
	}
	if err == nil {
		return in.awaitReady(ctx, first)
	}
	// A container's end shows before its engine tells of it.
	ended := errors.Is(err, sandbox.ErrEnded) || errors.Is(err, unix.EPIPE)
	select {
	case <-in.container.Exited():
		ended = true
	default:
	}
	if ended {
		return errors.Join(errStemEnded, err)
	}
	return err
}

// assign tells the runtime which function it runs: over the Runtime API, or, where
// no shim asks, by the script that the shell waits for.
func (in *instance) assign() error {
	env := in.environment()
	if in.runtime.Shim {
		in.api.Assign(runtimeapi.Assignment{
			Handler: in.version.Spec.Handler, TaskRoot: taskRoot, Env: env, Concurrency: in.version.Spec.Concurrency,
		})
		return nil
	}
	if _, ok := in.runtime.Image(); ok {
		return in.assignImage(env)
	}
	var script strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&script, "export %s=%s\n", name, shellQuote(env[name]))
	}
	fmt.Fprintf(&script, "cd %s\nexec %s\n", taskRoot, strings.Join(in.runtime.Command, " "))
	_, err := in.script.WriteString(script.String())
	return errors.Join(err, in.script.Close())
}

// shellQuote makes one word of any text.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// environment is what the function sees beyond what its stem was started with.
func (in *instance) environment() map[string]string {
	v := in.version
	env := map[string]string{
		"_HANDLER":                        v.Spec.Handler,
		"AWS_LAMBDA_FUNCTION_NAME":        v.Name,
		"AWS_LAMBDA_FUNCTION_VERSION":     strconv.Itoa(v.Number),
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.FormatInt(v.Spec.MemoryBytes>>20, 10),
		"AWS_LAMBDA_LOG_GROUP_NAME":       "/dayfly/" + v.Namespace + "/" + v.Name,
		"DAYFLY_NAMESPACE":                v.Namespace,
	}
	if v.Spec.Concurrency > 1 {
		env["AWS_LAMBDA_MAX_CONCURRENCY"] = strconv.Itoa(v.Spec.Concurrency)
	}
	maps.Copy(env, v.Spec.Env)
	maps.Copy(env, in.secretEnv)
	return env
}

// functionLimits are what one instance of a version may use.
func functionLimits(s functions.Spec) sandbox.Limits {
	return sandbox.Limits{
		MemoryBytes: s.MemoryBytes, CPUMillis: max(maxCPUMillis, s.CPUMillis), CPUShareMillis: s.CPUMillis,
		PIDs: maxPIDs, OpenFiles: maxFiles, FileBytes: maxFileBytes,
	}
}

// awaitReady waits for the runtime's first call, its report of failure, its end or
// the time limit.
func (in *instance) awaitReady(ctx context.Context, first wire.InvocationID) error {
	limit := time.NewTimer(wire.InitTimeout)
	defer limit.Stop()
	deadline := time.Now().Add(wire.InitTimeout)
	in.hold.Arm(deadline)
	defer in.hold.Disarm(deadline)
	select {
	case <-in.api.Ready():
		return nil
	case e := <-in.api.InitFailed():
		select { // let it finish printing
		case <-in.container.Exited():
		case <-time.After(exitGrace):
		}
		return in.initError(e, first)
	case <-in.container.Exited():
		return in.whyNotReady(ctx, deadline, first)
	case <-limit.C:
		in.container.Kill()
		return in.initTimeout(first)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// whyNotReady is why an instance ended that was to be ready by a deadline.
func (in *instance) whyNotReady(ctx context.Context, deadline time.Time, first wire.InvocationID) error {
	select { // it said why before it ended
	case e := <-in.api.InitFailed():
		return in.initError(e, first)
	default:
	}
	switch err := in.whyEnded(ctx, deadline); {
	case errors.Is(err, errDeadline):
		return in.initTimeout(first)
	case !errors.Is(err, runtimeapi.ErrEnded):
		return err
	}
	e := in.exitError(first)
	e.Retryable = e.Code == wire.CodeUnavailable // it had no event yet
	return e
}

func (in *instance) initTimeout(first wire.InvocationID) *wire.Error {
	return &wire.Error{
		Code: wire.CodeFunctionTimeout, Logs: in.logs.end(first),
		Message: fmt.Sprintf("the function did not ask for its first event within %s of its start", wire.InitTimeout),
	}
}

func (in *instance) initError(e *wire.Error, first wire.InvocationID) *wire.Error {
	e.Message = "the function did not start: " + e.Message
	e.Logs = in.logs.end(first)
	return e
}

// invoke runs one event; took takes its response. Its error is a [*wire.Error] of the function, or the
// platform's. reusable says whether the instance may run another event. When the
// deadline passes, dismiss is called: it lets no further event come and kills the
// instance.
func (in *instance) invoke(ctx context.Context, event runtimeapi.Event, took *taker, dismiss func()) (result []byte, reusable bool, err error) {
	id, timeout := event.ID, in.version.Spec.Timeout()
	deadline := time.Now().Add(timeout)
	limited, cancel := context.WithDeadlineCause(ctx, deadline, errDeadline)
	defer cancel()
	in.hold.Arm(deadline)
	defer in.hold.Disarm(deadline)
	in.logs.begin(id)
	event.Deadline, event.ARN = deadline, in.arn()
	result, err = in.api.Invoke(limited, event)
	if err == nil && took.collected != nil {
		result = took.collected
	}
	if errors.Is(err, runtimeapi.ErrEnded) {
		err = in.whyEnded(ctx, deadline)
	}
	switch {
	case errors.Is(err, errDeadline):
		in.timedOut.Store(true)
		dismiss()
		err = &wire.Error{
			Code:    wire.CodeFunctionTimeout,
			Message: fmt.Sprintf("the function ran into its timeout of %s and was killed", timeout),
		}
	case errors.Is(err, runtimeapi.ErrEnded):
		err = in.exitError(id)
	case errors.Is(err, errStopped), errors.Is(err, errGivenUp):
		in.container.Kill()
	case errors.Is(err, errCancelled):
		in.timedOut.Store(true)
		dismiss()
	case errors.Is(err, runtimeapi.ErrNotDelivered):
		in.logs.end(id)
		return nil, false, err
	case err == nil && !took.took && !json.Valid(result):
		err = noJSON(result)
		reusable = true
	default:
		// Alive and answered, well or with an error of its own.
		reusable = ctx.Err() == nil
	}
	tail := in.logs.end(id)
	if e, ok := errors.AsType[*wire.Error](err); ok && e.Logs == "" {
		e.Logs = tail
	}
	return result, reusable, err
}

// whyEnded is why the instance ended while it ran an event, or started, with a deadline.
func (in *instance) whyEnded(ctx context.Context, deadline time.Time) error {
	now := time.Now()
	switch killed := in.container.Exit().Code == killedCode; {
	case killed && !now.Before(deadline):
		return errDeadline // the guard was quicker
	case errors.Is(context.Cause(ctx), errGivenUp):
		return errGivenUp
	case killed && in.hold.Overdue(now):
		in.timedOut.Store(true) // it was quicker with another invocation's
	}
	return runtimeapi.ErrEnded
}

// noJSON is the failure of a function whose result is none.
func noJSON(result []byte) *wire.Error {
	return &wire.Error{
		Code: wire.CodeFunctionError, Type: "Runtime.InvalidResponse",
		Message: fmt.Sprintf("the function's result is no JSON: it begins with %.40q", result),
	}
}

// exitError says how the process ended while it ran an invocation, or started. Call
// it once Exited is closed.
func (in *instance) exitError(id wire.InvocationID) *wire.Error {
	exit := in.container.Exit()
	e := &wire.Error{Code: wire.CodeFunctionExited, Logs: in.logs.end(id)}
	switch {
	case in.timedOut.Load():
		e.Message = "another invocation on the same instance ran into its timeout or was cancelled, and the instance was killed with all that ran on it"
	case exit.OutOfMemory:
		e.Code = wire.CodeFunctionOutOfMemory
		e.Message = fmt.Sprintf("the function used more than its %d MiB of memory and was killed; raise memory in %s",
			in.version.Spec.MemoryBytes>>20, functions.ManifestName)
	case exit.Code < 0, exit.Code == killedCode:
		// From inside, the first process cannot be killed. It may have run.
		e.Code = wire.CodeUnavailable
		e.Message = "the function's process was killed from outside while it ran: the container engine was stopped, or the machine ran out of memory"
	case exit.Code > 128:
		e.Message = fmt.Sprintf("the function's process was ended by signal %d", exit.Code-128)
	default:
		e.Message = fmt.Sprintf("the function's process ended with status %d", exit.Code)
	}
	return e
}

// keepsFiles says that the files in the output folder belong to a single invocation.
func (in *instance) keepsFiles() bool { return in.version.Spec.Concurrency <= 1 }

// once says that the instance runs one event in its life.
func (in *instance) once() bool { return in.version.Spec.Isolation == functions.IsolationInvocation }

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
	if in.settings != nil {
		in.settings.Close()
	}
	if in.script != nil {
		_ = in.script.Close() // it may be closed already
	}
	if in.server != nil {
		err = errors.Join(err, in.server.Close())
	}
	removed := error(nil)
	if in.container != nil {
		removed = in.container.Remove(ctx)
	}
	if removed == nil {
		in.hold.Release()
		in.releaseRoot()
	}
	err = errors.Join(err, removed)
	if in.logs != nil {
		in.logs.close()
	}
	return errors.Join(err, os.RemoveAll(in.dir))
}
