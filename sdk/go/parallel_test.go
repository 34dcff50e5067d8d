package dayfly

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSeveralAtOnce: so many events are in the handler together, or nobody would get on.
func TestSeveralAtOnce(t *testing.T) {
	const atOnce = 3
	api := newFakeAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	in, out := make(chan struct{}, atOnce), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- serveAll(ctx, func(name string) string {
			return map[string]string{"DAYFLY_RUNTIME_SOCKET": api.socket, "AWS_LAMBDA_MAX_CONCURRENCY": "3"}[name]
		}, rawHandler(func(ctx context.Context, n int) (int, error) {
			if _, ok := LogWriter(ctx).(markedWriter); !ok {
				return 0, errors.New("its log is not marked")
			}
			in <- struct{}{}
			select {
			case <-out:
			case <-time.After(time.Minute):
				return 0, errors.New("alone")
			}
			return 10 * n, nil
		}))
	}()
	for n := range atOnce {
		api.events <- strconv.Itoa(n + 1)
	}
	for range atOnce {
		<-in
	}
	close(out)
	var bodies []string
	for range atOnce {
		bodies = append(bodies, (<-api.answers).body)
	}
	if slices.Sort(bodies); strings.Join(bodies, " ") != "10 20 30" {
		t.Errorf("answers %v", bodies)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("it ended without an error")
	}
}

func TestConcurrencyIsNoNumber(t *testing.T) {
	err := serveAll(t.Context(), func(string) string { return "many" }, nil)
	if err == nil || !strings.Contains(err.Error(), "AWS_LAMBDA_MAX_CONCURRENCY=many") {
		t.Errorf("error %v", err)
	}
}

func TestLogWriter(t *testing.T) {
	if w := LogWriter(t.Context()); w != os.Stderr {
		t.Errorf("outside of an invocation it is %v", w)
	}
	var printed bytes.Buffer
	w := markedWriter{&printed, "\x1eid-1\x1f"}
	for _, text := range []string{"one\n", "", "two\nthree\n", "no end"} {
		if n, err := w.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("write %q: %d, %v", text, n, err)
		}
	}
	want := "\x1eid-1\x1fone\n\x1eid-1\x1ftwo\n\x1eid-1\x1fthree\n\x1eid-1\x1fno end\n"
	if printed.String() != want {
		t.Errorf("printed %q, want %q", printed.String(), want)
	}
}
