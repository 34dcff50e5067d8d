package invoker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/wire"
)

// platform is what all tests share: a process can hold one S3 server only. Names
// of functions and nodes keep the tests apart.
type platform struct {
	dir   string
	nats  *natsserver.Server
	s3    *s3server.Server
	conn  *bus.Conn // for the tests' own requests
	store *blob.Store
	// settings are those of functions, and live follows them for all nodes.
	settings *settings.Store
	live     *settings.Live
}

var shared platform

func TestMain(m *testing.M) {
	if guard.Wanted(os.Args) {
		os.Exit(guard.Run(os.Args))
	}
	code := 1
	if err := shared.start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	shared.stop()
	if code == 0 {
		if err := goleak.Find(
			// The S3 server's HTTP library never ends these.
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		); err != nil {
			fmt.Fprintln(os.Stderr, "left running:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (p *platform) start() (err error) {
	ctx := context.Background()
	if p.dir, err = os.MkdirTemp("", "invoker-test-"); err != nil {
		return err
	}
	if p.nats, err = natsserver.Start(natsserver.Config{Dir: p.dir + "/nats"}, quiet()); err != nil {
		return err
	}
	if p.s3, err = s3server.Start(ctx, s3server.Config{Dir: p.dir + "/s3"}, quiet()); err != nil {
		return err
	}
	if p.conn, err = bus.Connect(bus.Config{Name: "tests", InProcess: p.nats}, quiet()); err != nil {
		return err
	}
	if p.store, err = p.open(p.s3.Dial); err != nil {
		return err
	}
	if err := p.store.EnsureBucket(ctx); err != nil {
		return err
	}
	ring, err := keyring.LoadOrCreate(p.dir + "/secrets.key")
	if err != nil {
		return err
	}
	p.settings = settings.New(p.conn, ring)
	if err := p.settings.Open(ctx); err != nil {
		return err
	}
	p.live = settings.NewLive(p.settings, quiet())
	if err := p.live.Start(ctx); err != nil {
		return err
	}
	return p.conn.EnsureStream(ctx, bus.StreamConfig{
		Name: wire.StreamStoredRecords, Subjects: []string{wire.AllStoredRecords}, MaxBytes: 64 << 20,
	})
}

func (p *platform) open(dial func(context.Context, string, string) (net.Conn, error)) (*blob.Store, error) {
	return blob.New(blob.Config{
		Endpoint: "http://embedded", Bucket: "dayfly", Region: s3server.Region,
		AccessKey: p.s3.AccessKey, SecretKey: p.s3.SecretKey, Dial: dial,
	})
}

func (p *platform) stop() {
	if p.live != nil {
		_ = p.live.Stop(context.Background())
	}
	if p.conn != nil {
		p.conn.Close()
	}
	if p.store != nil {
		p.store.Close()
	}
	if p.s3 != nil {
		p.s3.Stop()
	}
	if p.nats != nil {
		p.nats.Stop()
	}
	_ = os.RemoveAll(p.dir)
}

// line is a way to S3 that a test can cut and listen to.
type line struct {
	mu   sync.Mutex
	down error             // guarded by mu: what using the line fails with
	hear func(sent []byte) // guarded by mu
	all  []net.Conn        // guarded by mu
}

var errLineCut = errors.New("the line to S3 is cut")

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return nil, l.down
	}
	conn, err := shared.s3.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.all = append(l.all, conn)
	return &tapped{conn, l}, nil
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = errLineCut
	for _, c := range l.all {
		_ = c.Close()
	}
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = nil
}

func (l *line) onSend(hear func([]byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hear = hear
}

type tapped struct {
	net.Conn
	line *line
}

func (c *tapped) Write(p []byte) (int, error) {
	c.line.mu.Lock()
	hear := c.line.hear
	c.line.mu.Unlock()
	if hear != nil {
		hear(p)
	}
	return c.Conn.Write(p)
}

// store opens S3 over a line of its own.
func (l *line) store(tb testing.TB) *blob.Store {
	tb.Helper()
	store, err := shared.open(l.dial)
	must(tb, err)
	tb.Cleanup(l.cut) // ends what the client keeps open
	return store
}

// artifact makes one of the given files and puts it into S3.
func artifact(tb testing.TB, files map[string]string) (wire.Digest, []byte) {
	tb.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for name, text := range files {
		must(tb, archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}))
		_, err := archive.Write([]byte(text))
		must(tb, err)
	}
	must(tb, archive.Close())
	must(tb, zipped.Close())
	sum := sha256.Sum256(packed.Bytes())
	d := wire.Digest(hex.EncodeToString(sum[:]))
	must(tb, shared.store.PutBytes(tb.Context(), wire.CodeKey(d), packed.Bytes(), "application/gzip"))
	return d, packed.Bytes()
}
