package dayfly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Invocation is what a handler may know of its event besides the event.
type Invocation struct {
	// ID names the invocation.
	ID string
	// Deadline is when the process is killed; zero when there is none. The
	// handler's context ends then too.
	Deadline time.Time
	// Namespace, Function and Version name what runs.
	Namespace, Function, Version string
	// ARN names it as AWS Lambda would.
	ARN string
	// TraceID is the caller's, if it sent one.
	TraceID string
	// MemoryMiB is the memory limit, in MiB.
	MemoryMiB int
	// OutputDir is the folder for files that shall outlive the invocation.
	OutputDir string

	marked bool          // its log lines are marked, as others run beside it
	calls  chan struct{} // holds one for each that is under way
}

type invocationKey struct{}

// FromContext returns the invocation that a handler's context belongs to. For
// any other context ok is false.
func FromContext(ctx context.Context) (inv Invocation, ok bool) {
	inv, ok = ctx.Value(invocationKey{}).(Invocation)
	return inv, ok
}

// OutputDir returns the folder for files that shall outlive the invocation. A
// function with `output: {store: true}` finds them in S3 under its invocation.
func OutputDir(ctx context.Context) string {
	if inv, ok := FromContext(ctx); ok && inv.OutputDir != "" {
		return inv.OutputDir
	}
	if dir := os.Getenv("DAYFLY_OUTPUT_DIR"); dir != "" {
		return dir
	}
	return "/mnt/output"
}

// Put leaves what r holds as a file of the invocation's output. The name is a
// relative, slash-separated path and may hold folders; one that leaves the
// output folder is an error. What r fails with is in the error's chain.
func Put(ctx context.Context, name string, r io.Reader) (err error) {
	if !filepath.IsLocal(name) || filepath.Clean(name) == "." {
		return fmt.Errorf("put %q: the name leaves the output folder; use a relative path below it", name)
	}
	dir := OutputDir(ctx)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("put %q: %w", name, err)
	}
	defer root.Close()
	if err := makeFolders(root, filepath.Dir(filepath.Clean(name))); err != nil {
		return fmt.Errorf("put %q: %w", name, err)
	}
	f, err := root.Create(name)
	if err != nil {
		return fmt.Errorf("put %q: %w", name, err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("put %q: %w", name, err)
	}
	return nil
}

func makeFolders(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	path := ""
	for part := range strings.SplitSeq(filepath.ToSlash(dir), "/") {
		path = filepath.Join(path, part)
		if err := root.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// newInvocation reads the headers that come with an event.
func newInvocation(h http.Header) Invocation {
	inv := Invocation{
		ID:        h.Get("Lambda-Runtime-Aws-Request-Id"),
		ARN:       h.Get("Lambda-Runtime-Invoked-Function-Arn"),
		TraceID:   h.Get("Lambda-Runtime-Trace-Id"),
		Namespace: os.Getenv("DAYFLY_NAMESPACE"),
		Function:  os.Getenv("AWS_LAMBDA_FUNCTION_NAME"),
		Version:   os.Getenv("AWS_LAMBDA_FUNCTION_VERSION"),
		OutputDir: os.Getenv("DAYFLY_OUTPUT_DIR"),
		calls:     make(chan struct{}, callsAtOnce),
	}
	// Neither is worth failing an event for.
	inv.MemoryMiB, _ = strconv.Atoi(os.Getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"))
	if ms, err := strconv.ParseInt(h.Get("Lambda-Runtime-Deadline-Ms"), 10, 64); err == nil && ms > 0 {
		inv.Deadline = time.UnixMilli(ms)
	}
	return inv
}
