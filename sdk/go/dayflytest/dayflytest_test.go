package dayflytest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
	"github.com/dayfly-run/dayfly/sdk/go/dayflytest"
)

type order struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

func TestInvoke(t *testing.T) {
	p := dayflytest.New(t)
	p.Handle("price.shop:live", func(event json.RawMessage) (any, error) {
		var in order
		if err := json.Unmarshal(event, &in); err != nil {
			return nil, err
		}
		if in.Count == 0 {
			return nil, errors.New("nothing is free")
		}
		return 3 * in.Count, nil
	})
	ctx := p.Context()
	price, err := dayfly.Invoke[order, int](ctx, "price.shop:live", order{"pear", 2})
	if err != nil || price != 6 {
		t.Errorf("got %d, %v", price, err)
	}
	raw, err := dayfly.Invoke[[]byte, []byte](ctx, "price.shop:live", []byte(`{"count":3}`))
	if err != nil || string(raw) != "9" {
		t.Errorf("got %s, %v", raw, err)
	}
	_, err = dayfly.Invoke[order, string](ctx, "price.shop:live", order{Count: 1})
	if err == nil || !strings.Contains(err.Error(), "does not fit string") {
		t.Errorf("got %v", err)
	}
	_, err = dayfly.Invoke[order, int](ctx, "price.shop:live", order{})
	var failed *dayfly.Error
	if !errors.As(err, &failed) || failed.Code != "function.error" || failed.Message != "nothing is free" || failed.Invocation == "" {
		t.Errorf("got %+v", err)
	}
	if _, err = dayfly.Invoke[order, int](ctx, "nobody", order{}); !errors.As(err, &failed) || failed.Code != "not_found" {
		t.Errorf("got %v", err)
	}
	if _, err = dayfly.Invoke[chan int, int](ctx, "price.shop:live", nil); err == nil || !strings.Contains(err.Error(), "chan int") {
		t.Errorf("got %v", err)
	}
	inv, _ := dayfly.FromContext(ctx)
	if calls := p.Calls(); len(calls) != 5 || calls[0].Invocation != inv.ID || calls[0].Event != `{"item":"pear","count":2}` {
		t.Errorf("calls %+v", calls)
	}
	ended, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("enough"))
	if _, err = dayfly.Invoke[order, int](ended, "price.shop:live", order{}); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

func TestInvokeAsyncAndPublish(t *testing.T) {
	p := dayflytest.New(t)
	p.Handle("mail", func(json.RawMessage) (any, error) { return nil, errors.New("it is not run") })
	ctx := p.Context()
	id, err := dayfly.InvokeAsync(ctx, "mail", order{"pear", 1}, "order-7")
	if err != nil || id == "" {
		t.Errorf("got %q, %v", id, err)
	}
	if calls := p.Calls(); len(calls) != 1 || !calls[0].Async || calls[0].Key != "order-7" {
		t.Errorf("calls %+v", calls)
	}
	err = errors.Join(dayfly.Publish(ctx, "orders.created", order{"pear", 1}), dayfly.Publish(ctx, "raw", []byte("as it is")))
	want := []dayflytest.Message{{"orders.created", `{"item":"pear","count":1}`}, {"raw", "as it is"}}
	if got := p.Published(); err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("published %+v, %v", got, err)
	}
}

func TestConfig(t *testing.T) {
	p := dayflytest.New(t)
	p.SetConfig(map[string]string{"greeting": "Hello"})
	ctx := p.Context()
	values, err := dayfly.Config(ctx)
	if err != nil || !maps.Equal(values, map[string]string{"greeting": "Hello"}) {
		t.Fatalf("got %v, %v", values, err)
	}
	values["greeting"] = "mine"
	if got := dayfly.ConfigValue(ctx, "greeting", "?") + dayfly.ConfigValue(ctx, "other", "?"); got != "Hello?" {
		t.Errorf("got %s", got)
	}
	changes := make(chan string, 2)
	stop, err := dayfly.OnChange(ctx, func(old, current map[string]string) { changes <- old["greeting"] + "→" + current["greeting"] })
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Hello→Hi", "Hi→Hey"} {
		_, to, _ := strings.Cut(want, "→")
		p.SetConfig(map[string]string{"greeting": to})
		select {
		case got := <-changes:
			if got != want || dayfly.ConfigValue(ctx, "greeting", "?") != to {
				t.Errorf("got %s, want %s", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatal("it does not hear of a change")
		}
	}
	stop()
}

func TestSecret(t *testing.T) {
	p := dayflytest.New(t)
	ctx := p.Context()
	t.Setenv("API_TOKEN", "of the environment")
	for _, want := range []string{"of the environment", "of the file", "another"} {
		if want != "of the environment" {
			p.SetSecret("API_TOKEN", want)
		}
		if got, err := dayfly.Secret(ctx, "API_TOKEN"); err != nil || got != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, name := range []string{"MISSING", "", "../x", ".", "a/b"} {
		if got, err := dayfly.Secret(ctx, name); err == nil {
			t.Errorf("%q is %q", name, got)
		}
	}
}

func TestRun(t *testing.T) {
	p := dayflytest.New(t)
	p.Handle("double", func(event json.RawMessage) (any, error) { return string(event) + string(event), nil })
	call := dayflytest.Run(p, func(ctx context.Context, in string) (string, error) {
		inv, ok := dayfly.FromContext(ctx)
		if deadline, has := ctx.Deadline(); !ok || inv.ID == "" || !has || deadline.IsZero() {
			return "", errors.New("it knows no invocation")
		}
		switch in {
		case "fail":
			return "", os.ErrPermission
		case "put":
			return in, dayfly.Put(ctx, "a/b.txt", strings.NewReader("text"))
		}
		return dayfly.Invoke[string, string](ctx, "double", in)
	})
	if got, err := call([]byte(`"x"`)); err != nil || string(got) != `"\"x\"\"x\""` {
		t.Errorf("got %s, %v", got, err)
	}
	var failed *dayfly.Error
	if _, err := call([]byte(`"fail"`)); !errors.As(err, &failed) || failed.Type != "errorString" {
		t.Errorf("got %v", err)
	}
	if _, err := call([]byte(`"put"`)); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(p.Output, "a/b.txt")); err != nil || string(got) != "text" {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestLogger: the format is what `dayfly logs --level` reads.
func TestLogger(t *testing.T) {
	for level, want := range map[string]string{"": "INFO WARN", "debug": "DEBUG INFO WARN", "error": "", "loud": "INFO WARN"} {
		t.Setenv("LOG_LEVEL", level)
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr := os.Stderr
		os.Stderr = writer
		log := dayfly.Logger(t.Context())
		os.Stderr = stderr
		log.Debug("d")
		log.Info("i", "count", 3)
		log.Warn("w")
		_ = writer.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(reader); err != nil {
			t.Fatal(err)
		}
		_ = reader.Close()
		var levels []string
		for line := range strings.Lines(text.String()) {
			var entry struct {
				Time       time.Time
				Level, Msg string
				Count      int
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time.IsZero() || entry.Msg == "" {
				t.Errorf("%s: %v", line, err)
			}
			if entry.Level == slog.LevelInfo.String() && entry.Count != 3 {
				t.Errorf("%s has lost its field", line)
			}
			levels = append(levels, entry.Level)
		}
		if got := strings.Join(levels, " "); got != want {
			t.Errorf("at %q: %s, want %s", level, got, want)
		}
	}
}
