package embedtest

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Way is a way to a server that can be cut: then what goes into it is lost, and nobody is
// told. It is safe for concurrent use.
type Way struct {
	// URL is the way's beginning, for clients.
	URL string

	mu    sync.Mutex // guards what follows
	open  []io.Closer
	used  bool
	cuts  int // how often it was cut: what was open then stays mute
	isCut bool
}

// NewWay opens a way to a server, which ends with the test.
func NewWay(tb testing.TB, server string) *Way {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w := &Way{URL: "nats://" + listener.Addr().String(), open: []io.Closer{listener}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(tb.Context(), "tcp", strings.TrimPrefix(server, "nats://"))
			if err != nil {
				_ = in.Close()
				return
			}
			cut := w.enter(in, out)
			running.Go(func() { w.carry(in, out, cut) })
			running.Go(func() { w.carry(out, in, cut) })
		}
	})
	tb.Cleanup(func() {
		w.mu.Lock()
		for _, c := range w.open {
			_ = c.Close() // many are closed already
		}
		w.mu.Unlock()
		running.Wait()
	})
	return w
}

// enter notes a connection, and returns the cut that it will not survive.
func (w *Way) enter(in, out io.Closer) (cut int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = append(w.open, in, out)
	w.used = true
	if w.isCut {
		return w.cuts
	}
	return w.cuts + 1
}

// Used reports whether anybody has gone the way.
func (w *Way) Used() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used
}

// Cut cuts the way for all connections, those to come too.
func (w *Way) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts++
	w.isCut = true
}

// Mend lets new connections through again.
func (w *Way) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = false
}

func (w *Way) mute(cut int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts >= cut
}

// carry copies until an end closes, which it hides once the way is cut.
func (w *Way) carry(from io.Reader, to io.WriteCloser, cut int) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if w.mute(cut) {
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
