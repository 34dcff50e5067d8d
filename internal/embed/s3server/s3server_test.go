package s3server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// The tests run one after another: a process can have one server at a time.

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func start(t *testing.T, cfg s3server.Config) *s3server.Server {
	t.Helper()
	s, err := s3server.Start(t.Context(), cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func open(t *testing.T, cfg blob.Config) *blob.Store {
	t.Helper()
	cfg.Bucket, cfg.Region = "dayfly", s3server.Region
	store, err := blob.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

func TestDataAndKeysSurviveARestart(t *testing.T) {
	t.Chdir(t.TempDir())
	const dir = "relative" // and the server changes the working directory
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	var first string
	for run := range 2 {
		s := start(t, s3server.Config{Dir: map[int]string{0: dir, 1: abs}[run]})
		store := open(t, blob.Config{Endpoint: "http://embedded", AccessKey: s.AccessKey, SecretKey: s.SecretKey, Dial: s.Dial})
		if run == 0 {
			first = s.SecretKey
			if err := store.PutBytes(t.Context(), "a/b", []byte("v"), "text/plain"); err != nil {
				t.Fatal(err)
			}
		}
		data, err := store.GetBytes(t.Context(), "a/b", 10)
		if err != nil || string(data) != "v" || s.SecretKey != first {
			t.Errorf("run %d: %q, %v, same key %t", run, data, err, s.SecretKey == first)
		}
		s.Stop()
		s.Stop() // again: nothing happens
	}
	info, err := os.Stat(filepath.Join(abs, "credentials.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credentials: %v, %v", info, err)
	}
}

// TestStopsAtOnce: an HTTP client opens connections that it then has no use for. The
// server would wait 10 s for their first request.
func TestStopsAtOnce(t *testing.T) {
	s := start(t, s3server.Config{Dir: t.TempDir()})
	dialing, proceed, dialed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var dials atomic.Int32
	store := open(t, blob.Config{
		Endpoint: "http://embedded", AccessKey: s.AccessKey, SecretKey: s.SecretKey,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := s.Dial(ctx, network, address)
			if dials.Add(1) == 2 {
				close(dialing)
				<-proceed
				defer close(dialed)
			}
			return conn, err
		},
	})
	if err := store.PutBytes(t.Context(), "a", make([]byte, 1<<20), "text/plain"); err != nil {
		t.Fatal(err)
	}
	busy, err := store.Get(t.Context(), "a")
	if err == nil {
		_, err = busy.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() { asked <- store.Healthy(context.Background()) }()
	select {
	case <-dialing:
	case err := <-asked:
		t.Fatalf("it needed no connection of its own: %v", err)
	}
	// The question goes over the connection that gets free, not the one it asked for.
	if _, err := io.Copy(io.Discard, busy); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(busy.Close(), <-asked); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	<-dialed
	store.Close()
	began := time.Now()
	s.Stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
}

func TestWrongKeys(t *testing.T) {
	s := start(t, s3server.Config{Dir: t.TempDir()})
	for name, cfg := range map[string]blob.Config{
		"secret key": {AccessKey: s.AccessKey, SecretKey: "wrong"},
		"access key": {AccessKey: "nobody", SecretKey: s.SecretKey},
	} {
		cfg.Endpoint, cfg.Dial, cfg.Bucket, cfg.Region = "http://embedded", s.Dial, "dayfly", s3server.Region
		store, err := blob.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"ensure": store.EnsureBucket(t.Context()),
			"put":    store.PutBytes(t.Context(), "k", []byte("v"), "text/plain"),
		} {
			if err == nil || !strings.Contains(err.Error(), "check the S3 access key and secret key") {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
}

func TestBadFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	credentials := filepath.Join(damaged, "credentials.json")
	if err := os.WriteFile(credentials, []byte(`{"AccessKey":"day`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		dir  string
		want []string
	}{
		"folder is a file":    {file, []string{file, "not a directory"}},
		"credentials damaged": {damaged, []string{credentials, "damaged", "restore it, or remove it"}},
	} {
		s, err := s3server.Start(t.Context(), s3server.Config{Dir: test.dir}, discard())
		if err == nil {
			s.Stop()
			t.Errorf("%s: it started", name)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q lacks %q", name, err, want)
			}
		}
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	start(t, s3server.Config{Dir: t.TempDir()})
	s, err := s3server.Start(t.Context(), s3server.Config{Dir: t.TempDir()}, discard())
	if err == nil {
		s.Stop()
		t.Fatal("two servers in one process")
	}
	if !strings.Contains(err.Error(), "only one instance") {
		t.Error(err)
	}
}

func TestStartGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := s3server.Start(ctx, s3server.Config{Dir: t.TempDir()}, discard())
	if err == nil {
		s.Stop()
		t.Error("it started although nobody waits")
	}
}

func TestListens(t *testing.T) {
	other, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s, err := s3server.Start(t.Context(), s3server.Config{Dir: t.TempDir(), Listen: other.Addr().String()}, discard())
	if err == nil {
		s.Stop()
		t.Error("it listens where another does")
	}
}
