package bus_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

// way is a way to a server that can be cut: then what goes into it is lost, and nobody is
// told.
type way struct {
	url  string
	used atomic.Bool
	cut  atomic.Bool
}

// newWay opens a way, which ends with the test.
func newWay(t *testing.T, server string) *way {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{url: "nats://" + listener.Addr().String()}
	var mu sync.Mutex
	open := []io.Closer{listener}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(server, "nats://"))
			if err != nil {
				_ = in.Close()
				return
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			w.used.Store(true)
			running.Go(func() { w.carry(in, out) })
			running.Go(func() { w.carry(out, in) })
		}
	})
	t.Cleanup(func() {
		mu.Lock()
		for _, c := range open {
			_ = c.Close() // many are closed already
		}
		mu.Unlock()
		running.Wait()
	})
	return w
}

// carry copies until an end closes, which it hides once the way is cut.
func (w *way) carry(from io.Reader, to io.WriteCloser) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if w.cut.Load() {
			if err != nil {
				return
			}
			continue
		}
		if err == nil {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// TestCut: a server that is cut off says nothing, and closes nothing. A client finds that
// out, gives up what it waits for, and goes another way.
func TestCut(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	ways := []*way{newWay(t, server.URL()), newWay(t, server.URL())}
	conn, err := bus.Connect(bus.Config{URL: ways[0].url + "," + ways[1].url}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b := openBucket(t, conn, 0)
	w := watch(t, b)
	embedtest.Receive(t, w.ready)
	lost := make(chan struct{})
	conn.OnLost(func() { close(lost) })

	begun := time.Now()
	for _, way := range ways {
		way.cut.Store(way.used.Load())
	}
	if _, err := b.Create(t.Context(), "k", nil); err == nil {
		t.Error("a write to a server that is cut off was answered")
	}
	embedtest.Receive(t, lost)
	t.Logf("noticed after %s", time.Since(begun))
	written := map[uint64]string{write(t, b, "after"): "after"}
	t.Logf("goes on after %s", time.Since(begun))
	w.follows(t, written)
}
