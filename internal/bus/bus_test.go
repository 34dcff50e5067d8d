package bus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

func TestMain(m *testing.M) {
	if embedtest.RunServer() {
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T) *bus.Conn {
	t.Helper()
	return embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
}

func subscribe(t *testing.T, conn *bus.Conn, subject, group string, handle func(bus.Msg)) *bus.Subscription {
	t.Helper()
	sub, err := conn.Subscribe(subject, group, handle)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func TestConnectRefused(t *testing.T) {
	_, err := bus.Connect(bus.Config{URL: "nats://127.0.0.1:1"}, embedtest.Discard())
	if err == nil || !strings.Contains(err.Error(), "nats://127.0.0.1:1") {
		t.Errorf("error = %v, want one that names the address", err)
	}
}

func TestRequest(t *testing.T) {
	conn := open(t)
	subscribe(t, conn, "echo", "", func(m bus.Msg) {
		if err := m.Respond(append([]byte("re: "), m.Data...)); err != nil {
			t.Error(err)
		}
	})
	answer, err := conn.Request(t.Context(), "echo", []byte("hello"))
	if err != nil || string(answer) != "re: hello" {
		t.Errorf("answer %q, %v", answer, err)
	}
	if err := conn.Healthy(); err != nil {
		t.Error(err)
	}
	if conn.MaxPayload() < 1<<20 {
		t.Errorf("largest message: %d bytes", conn.MaxPayload())
	}
}

func TestRequestThatNobodyHears(t *testing.T) {
	conn := open(t)
	if _, err := conn.Request(t.Context(), "nobody", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("error = %v, want ErrNoResponders", err)
	}
}

func TestRequestEndsWithItsContext(t *testing.T) {
	conn := open(t)
	heard := make(chan struct{}, 1)
	subscribe(t, conn, "silent", "", func(bus.Msg) { heard <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-heard
		cancel()
	}()
	if _, err := conn.Request(ctx, "silent", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := conn.Request(ctx, "silent", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want context.DeadlineExceeded", err)
	}
}

func TestGroupSharesMessages(t *testing.T) {
	conn := open(t)
	got := make(chan string, 20)
	for range 2 {
		subscribe(t, conn, "work", "workers", func(bus.Msg) { got <- "shared" })
	}
	subscribe(t, conn, "work", "", func(bus.Msg) { got <- "all" })
	const sent = 10
	for range sent {
		if err := conn.Publish("work", nil); err != nil {
			t.Fatal(err)
		}
	}
	counts := map[string]int{}
	for range 2 * sent {
		counts[embedtest.Receive(t, got)]++
	}
	if counts["shared"] != sent || counts["all"] != sent {
		t.Errorf("counts %v", counts)
	}
}

// TestStopHandlesWhatCame: a stop loses no message, and the server knows of it when
// it returns.
func TestStopHandlesWhatCame(t *testing.T) {
	conn := open(t)
	var mu sync.Mutex
	var handled int
	first, goOn := make(chan struct{}), make(chan struct{})
	sub := subscribe(t, conn, "work", "", func(bus.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if handled++; handled == 1 {
			close(first)
			<-goOn
		}
	})
	for range 5 {
		if err := conn.Publish("work", nil); err != nil {
			t.Fatal(err)
		}
	}
	embedtest.Receive(t, first)
	go close(goOn)
	sub.Stop(conn)
	mu.Lock()
	defer mu.Unlock()
	if handled != 5 {
		t.Errorf("%d of 5 messages were handled", handled)
	}
	if _, err := conn.Request(t.Context(), "work", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("after the stop: %v, want ErrNoResponders", err)
	}
	sub.Stop(conn) // again: nothing happens
}

func TestRespondToWhatIsNoRequest(t *testing.T) {
	conn := open(t)
	done := make(chan error, 1)
	subscribe(t, conn, "plain", "", func(m bus.Msg) { done <- m.Respond([]byte("x")) })
	if err := conn.Publish("plain", nil); err != nil {
		t.Fatal(err)
	}
	if err := embedtest.Receive(t, done); err != nil {
		t.Error(err)
	}
}

func TestClosedConnection(t *testing.T) {
	conn := open(t)
	conn.Close()
	if conn.Healthy() == nil {
		t.Error("a closed connection is healthy")
	}
	if _, err := conn.Request(t.Context(), "x", nil); err == nil {
		t.Error("a closed connection asks")
	}
	if _, err := conn.Subscribe("x", "", func(bus.Msg) {}); err == nil {
		t.Error("a closed connection subscribes")
	}
}
