// Package embedtest gives tests a real NATS and a real S3, of the test's own.
package embedtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// Discard is a logger that nobody reads.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// RunWithS3 runs a package's tests with the one S3 server that a process can have,
// hands it to use before they begin, and looks for goroutines that they left, but for
// those to ignore. It returns the exit code and is what TestMain calls.
func RunWithS3(m *testing.M, use func(*s3server.Server), ignore ...goleak.Option) int {
	dir, err := os.MkdirTemp("", "dayfly-s3-test-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err := s3server.Start(context.Background(), s3server.Config{Dir: dir}, Discard())
	if err != nil {
		return fail(err)
	}
	use(server)
	code := m.Run()
	server.Stop()
	if code != 0 {
		return code
	}
	// The HTTP server under VersityGW has two tickers that end when they like.
	ignore = append(ignore,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	)
	if err := goleak.Find(ignore...); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// CutBatches are the goroutines that a NATS server leaves which is stopped while it takes
// a batch, as a process that dies would end them.
func CutBatches() []goleak.Option {
	const server = "github.com/nats-io/nats-server/v2/server"
	return []goleak.Option{
		goleak.IgnoreAnyFunction(server + ".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction(server + ".(*msgBlock).flushLoop"),
		goleak.IgnoreAnyFunction(server + "/ats.Register.func1"),
	}
}

// Store opens a bucket on the server, the same for all tests of a process.
func Store(tb testing.TB, server *s3server.Server) *blob.Store {
	tb.Helper()
	store, err := blob.New(blob.Config{
		Endpoint: "http://embedded", Bucket: "dayfly", Region: s3server.Region,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey, Dial: server.Dial,
	})
	if err == nil {
		tb.Cleanup(store.Close)
		err = store.EnsureBucket(tb.Context())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

// NATS starts a server with its data in dir, which ends with the test.
func NATS(tb testing.TB, dir string) *natsserver.Server {
	tb.Helper()
	server, err := natsserver.Start(natsserver.Config{Dir: dir}, Discard())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Stop)
	return server
}

// Connect opens a connection, which ends with the test.
func Connect(tb testing.TB, server *natsserver.Server) *bus.Conn {
	tb.Helper()
	conn, err := bus.Connect(bus.Config{Name: tb.Name(), InProcess: server}, Discard())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	return conn
}

// bound is how long a test waits for what happens at once: a failure on a machine that has
// nothing else to do, not a measure of speed on one that has.
const bound = time.Minute

// maxPause is how long [Eventually] waits before it looks again: looking costs those their
// time that it waits for.
const maxPause = 16 * time.Millisecond

// Take acknowledges what a consumer has, and returns it. A stream acknowledges a message
// before it tells its consumers, and what one of them says that it has lags behind; so a
// mark goes the same way behind all that was sent, on a subject that the consumer wants.
func Take(tb testing.TB, conn *bus.Conn, stream, name, subject string) (taken []bus.Delivery) {
	tb.Helper()
	const mark = "the mark behind all that was sent"
	consumer, err := conn.Consumer(tb.Context(), stream, name)
	if err == nil {
		_, err = conn.Send(tb.Context(), bus.Outgoing{Subject: subject, Data: []byte(mark)})
	}
	if err != nil {
		tb.Fatal(err)
	}
	for marked := false; !marked; {
		came := false
		if err := consumer.Fetch(tb.Context(), 1, bound, func(d bus.Delivery) {
			if err := d.Ack(tb.Context()); err != nil {
				tb.Fatal(err)
			}
			if came, marked = true, string(d.Data) == mark; !marked {
				taken = append(taken, d)
			}
		}); err != nil {
			tb.Fatal(err)
		}
		if !came {
			tb.Fatalf("consumer %s of %s does not get what is sent to %s", name, stream, subject)
		}
	}
	return taken
}

// Receive waits for a value.
func Receive[T any](tb testing.TB, values <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-values:
	case <-time.After(bound):
		tb.Fatal("nothing came")
	}
	return v
}

// Eventually waits until something holds that sends no signal.
func Eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	limit := time.After(bound)
	for pause := time.Millisecond; !holds(); pause = min(2*pause, maxPause) {
		select {
		case <-time.After(pause):
		case <-limit:
			tb.Fatalf("%s: not in time", what)
		}
	}
}
