package natsserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func start(t *testing.T, cfg natsserver.Config) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t *testing.T, cfg bus.Config) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestTwoWaysIn(t *testing.T) {
	s := start(t, natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	inside, outside := connect(t, bus.Config{InProcess: s}), connect(t, bus.Config{URL: s.URL()})
	if _, err := inside.Subscribe("x", "", func(m bus.Msg) { _ = m.Respond([]byte("inside")) }); err != nil {
		t.Fatal(err)
	}
	answer, err := outside.Request(t.Context(), "x", nil)
	if err != nil || string(answer) != "inside" {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestNoListener(t *testing.T) {
	if url := start(t, natsserver.Config{Dir: t.TempDir()}).URL(); url != "" {
		t.Errorf("listens at %s", url)
	}
}

func TestDataSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	for run := range 3 {
		s := start(t, natsserver.Config{Dir: dir})
		conn := connect(t, bus.Config{InProcess: s})
		bucket, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "b"})
		if err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			if _, err := bucket.Create(t.Context(), "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
		}
		if e, err := bucket.Get(t.Context(), "k"); err != nil || string(e.Value) != "v" {
			t.Errorf("run %d: %q, %v", run, e.Value, err)
		}
		conn.Close()
		s.Stop()
		s.Stop() // again: nothing happens
	}
}

func TestBadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := start(t, natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	for name, test := range map[string]struct {
		cfg  natsserver.Config
		want []string
	}{
		"folder is a file":   {natsserver.Config{Dir: file}, []string{file, "not a directory"}},
		"folder in a file":   {natsserver.Config{Dir: filepath.Join(file, "x")}, []string{file, "not a directory"}},
		"no port":            {natsserver.Config{Dir: t.TempDir(), Listen: "localhost"}, []string{`"localhost"`, "missing port"}},
		"no cluster port":    {natsserver.Config{Dir: t.TempDir(), Cluster: &natsserver.Cluster{Name: "a", Listen: "127.0.0.1:0"}}, []string{`"127.0.0.1:0"`, "name a port"}},
		"port is no number":  {natsserver.Config{Dir: t.TempDir(), Listen: "localhost:nats"}, []string{`"localhost:nats"`, "no number"}},
		"port of another":    {natsserver.Config{Dir: t.TempDir(), Listen: strings.TrimPrefix(taken.URL(), "nats://")}, []string{"in use"}},
		"address of another": {natsserver.Config{Dir: t.TempDir(), Listen: "192.0.2.1:4222"}, []string{"cannot assign"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := natsserver.Start(test.cfg, discard())
			if err == nil {
				s.Stop()
				t.Fatal("it started")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestAMemberAloneIsNotReady(t *testing.T) {
	// All of 127.0.0.0/8 is this machine; nobody else uses this address.
	address := fmt.Sprintf("127.%d.%d.%d:6222", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	s := start(t, natsserver.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0",
		Cluster: &natsserver.Cluster{Name: "a", Listen: address, Peers: []string{"127.0.0.1:1", "127.0.0.1:2"}},
	})
	if err := s.Ready(t.Context()); err == nil {
		t.Error("it says that it is ready")
	}
	if err := s.Failed(); err != nil {
		t.Error(err)
	}
}

// A server one of whose streams cannot be written any more says so.
func TestFailedWrite(t *testing.T) {
	dir := t.TempDir()
	s := start(t, natsserver.Config{Dir: dir})
	conn := connect(t, bus.Config{InProcess: s})
	bucket, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "b", MaxValueBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Ready(t.Context()), s.Failed()); err != nil {
		t.Errorf("before: %v", err)
	}
	// The stream's next file cannot be made; root may do so in any folder, but not in a file.
	messages := filepath.Join(dir, "jetstream", "$G", "streams", "KV_b", "msgs")
	if err := errors.Join(os.RemoveAll(messages), os.WriteFile(messages, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() { // a write that failed has no answer, so nobody waits for it
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = bucket.Create(ctx, strconv.Itoa(i), make([]byte, 900_000))
		}
	})
	embedtest.Eventually(t, "it says that it has failed", func() bool {
		err := s.Failed()
		return err != nil && strings.Contains(err.Error(), dir)
	})
	end()
	writer.Wait()
}

// TestRetire: the server that leads a stream, and has the client, retires. Another one
// leads before it is gone, and no key that was written is lost.
func TestRetire(t *testing.T) {
	cluster := embedtest.NATSCluster(t)
	made := cluster.Connect(t)
	if _, err := made.Bucket(t.Context(), bus.BucketConfig{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	leader := -1
	embedtest.Eventually(t, "the bucket has a leader", func() bool { leader = cluster.Leader("KV_b"); return leader >= 0 })
	conn := connect(t, bus.Config{URL: cluster.ServerURL(leader), Replicas: cluster.Servers()})
	bucket, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	for n := range 20 {
		written = append(written, fmt.Sprintf("before%d", n))
		if _, err := bucket.Create(t.Context(), written[n], nil); err != nil {
			t.Fatal(err)
		}
	}
	lost := make(chan struct{})
	conn.OnLost(func() { close(lost) })
	retired := make(chan struct{})
	go func() { defer close(retired); cluster.RetireServer(leader) }()
	for try, gone := 0, false; !gone; try++ {
		// One that is under way when the server goes may get no answer, and be there.
		key := fmt.Sprintf("k%d", try)
		if _, err := bucket.Create(t.Context(), key, nil); err == nil {
			written = append(written, key)
		}
		select {
		case <-retired:
			gone = true
		default:
		}
	}
	embedtest.Receive(t, lost) // and it went elsewhere
	var keys []string
	embedtest.Eventually(t, "the client reads on", func() bool {
		keys, err = bucket.Keys(t.Context(), ">")
		return err == nil
	})
	for _, key := range written {
		if _, there := slices.BinarySearch(keys, key); !there {
			t.Errorf("%s was written, and is lost", key)
		}
	}
	t.Logf("%d keys were written", len(written))
	if now := cluster.Leader("KV_b"); now == leader {
		t.Error("it leads although it is gone")
	}
}
