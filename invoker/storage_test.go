package invoker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestClaimChecks(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	event := `"` + strings.Repeat("x", 3*mib) + `"`
	id := newInvocation()
	must(t, shared.store.PutBytes(t.Context(), wire.RequestKey(id), []byte(event), "application/json"))
	req := wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease(), PayloadKey: wire.RequestKey(id)}
	a, err := n.send(req, nil)
	must(t, err)
	if a.Error != nil || a.PayloadKey != wire.ResponseKey(id) || len(a.body) != 0 {
		t.Fatalf("answer %+v with %d bytes", a.InvokeReply, len(a.body))
	}
	result, err := shared.store.GetBytes(t.Context(), a.PayloadKey, wire.MaxEvent)
	if err != nil || string(result) != event {
		t.Fatalf("result of %d bytes, %v", len(result), err)
	}
	// One that is gone is the platform's failure, and costs no instance.
	a, err = n.send(wire.InvokeRequest{Version: v, PayloadKey: "payloads/none"}, nil)
	must(t, err)
	n.wantError(a, wire.CodeInternal, false, "could not be fetched")
	n.wantBody(n.warm(v, `2`), `2`)
}

// listen collects the messages on a subject.
func listen[T any](t *testing.T, subject string) <-chan T {
	t.Helper()
	all := make(chan T, 1000)
	sub, err := shared.conn.Subscribe(subject, "", func(m bus.Msg) {
		var message T
		if err := json.Unmarshal(m.Data, &message); err != nil {
			t.Error(err)
			return
		}
		all <- message
	})
	must(t, err)
	t.Cleanup(func() { sub.Stop(shared.conn) })
	return all
}

func receive[T any](t *testing.T, all <-chan T) T {
	t.Helper()
	select {
	case message := <-all:
		return message
	case <-time.After(patience):
		t.Fatal("no message comes")
		var none T
		return none
	}
}

func TestRecordAndLog(t *testing.T) {
	n := startNode(t, func(p *process) int {
		p.print("init\n")
		return each(func(p *process, id string, event []byte) ([]byte, error) {
			p.print("hello " + string(event) + "\n")
			if string(event) == `"bad"` {
				return nil, errors.New("no good")
			}
			return event, nil
		})(p)
	})
	v := n.deploy()
	logs := listen[wire.LogEntry](t, wire.FunctionLogs(v.FunctionID))
	for i, event := range []string{`"good"`, `"bad"`} {
		id := newInvocation()
		records := listen[wire.Record](t, wire.RecordSubject(v.FunctionID, id))
		a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease()}, []byte(event))
		must(t, err)
		r := receive(t, records)
		want := wire.Record{
			Invocation: id, Version: v, State: wire.StateSucceeded, Node: n.id, Instance: a.Instance, Cold: i == 0,
			StartedAt: r.StartedAt, EndedAt: r.EndedAt, InitMicros: a.InitMicros, RunMicros: a.RunMicros, Error: a.Error,
		}
		if a.Error != nil {
			want.State = wire.StateFailed
		}
		if diff := cmp.Diff(want, r); diff != "" || r.EndedAt.Before(r.StartedAt) {
			t.Errorf("record of %s:\n%s", event, diff)
		}
		entry := receive(t, logs)
		text := "hello " + event + "\n"
		if i == 0 {
			text = "init\n" + text
		}
		wantEntry := wire.LogEntry{
			Invocation: id, Version: v, Node: n.id, Instance: a.Instance, Time: entry.Time, Text: text, Last: true,
		}
		if diff := cmp.Diff(wantEntry, entry); diff != "" {
			t.Errorf("log of %s:\n%s", event, diff)
		}
	}
}

// output is a function that leaves in its output folder what make puts there.
func output(leave func(p *process, dir string, event []byte) error) func(*process) int {
	return each(func(p *process, _ string, event []byte) ([]byte, error) {
		dir, err := p.Path(outputRoot)
		if err != nil {
			return nil, err
		}
		return event, leave(p, dir, event)
	})
}

func TestOutputIsStored(t *testing.T) {
	n := startNode(t, output(func(_ *process, dir string, event []byte) error {
		if string(event) == `"nothing"` {
			return nil
		}
		return errors.Join(
			os.MkdirAll(filepath.Join(dir, "deep/er"), 0o700),
			os.WriteFile(filepath.Join(dir, "deep/er/日本.txt"), []byte("text"), 0o600),
			os.WriteFile(filepath.Join(dir, "short"), []byte("x"), 0o600),
			os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
			os.Symlink("/etc", filepath.Join(dir, "folder-link")),
			unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		)
	}))
	v := n.deploy(storing)
	for i, event := range []string{`"files"`, `"nothing"`, `"files"`} {
		id := newInvocation()
		a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease()}, []byte(event))
		must(t, err)
		n.wantBody(a, event)
		if a.Cold != (i == 0) {
			t.Errorf("call %d: cold is %t", i, a.Cold)
		}
		// The record is on disk when the answer is here, and the objects before it.
		data, err := shared.conn.Last(t.Context(), wire.StreamStoredRecords, wire.AnyStoredRecordSubject(id))
		must(t, err)
		var r wire.Record
		must(t, json.Unmarshal(data, &r))
		want := &wire.Output{ResultBytes: int64(len(event))}
		if event == `"files"` {
			want.Files = []wire.OutputFile{{Path: "deep/er/日本.txt", Bytes: 4}, {Path: "short", Bytes: 1}}
		}
		sorted := cmp.Transformer("sorted", func(files []wire.OutputFile) map[string]int64 {
			bytes := map[string]int64{}
			for _, f := range files {
				bytes[f.Path] = f.Bytes
			}
			return bytes
		})
		if diff := cmp.Diff(want, r.Output, sorted); diff != "" {
			t.Errorf("output of %s:\n%s", event, diff)
		}
		result, err := shared.store.GetBytes(t.Context(), wire.OutputResultKey(v.FunctionID, id), wire.MaxEvent)
		if err != nil || string(result) != event {
			t.Errorf("stored result %q, %v", result, err)
		}
		if event == `"files"` {
			file, err := shared.store.GetBytes(t.Context(), wire.OutputFileKey(v.FunctionID, id, "deep/er/日本.txt"), 100)
			if err != nil || string(file) != "text" {
				t.Errorf("stored file %q, %v", file, err)
			}
		}
	}
}

func TestOutputThatCannotBeStored(t *testing.T) {
	many := func(count int, name string) func(string) error {
		return func(dir string) error {
			for i := range count {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf(name, i)), []byte("x"), 0o600); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		leave func(dir string) error
		words string
	}{
		"too many files": {many(wire.MaxOutputFiles+1, "%d"), "more than 1000 files"},
		"too many folders": {func(dir string) error {
			for i := range maxOutputEntries + 1 {
				if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o700); err != nil {
					return err
				}
			}
			return nil
		}, "more than 4000 files and folders"},
		"too deep": {func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, strings.Repeat("0123456789/", 80)), 0o700)
		}, "a path of more than 700 bytes"},
		"a name that is no text": {many(1, "\xff%d"), "no UTF-8"},
		"too many bytes": {func(dir string) error {
			name := filepath.Join(dir, "sparse")
			return errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, wire.MaxOutputBytes+1))
		}, "more than 104857600 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, output(func(_ *process, dir string, event []byte) error {
				if string(event) == `"good"` {
					return nil
				}
				return test.leave(dir)
			}))
			v := n.deploy(storing)
			a := n.cold(v, `"bad"`)
			n.wantError(a, wire.CodeFunctionError, false, test.words)
			// Whatever became of the instance, the next call finds an empty folder.
			a = n.cold(v, `"good"`)
			n.wantBody(a, `"good"`)
		})
	}
}

func TestOutputOfAFailureIsNotStored(t *testing.T) {
	n := startNode(t, output(func(_ *process, dir string, event []byte) error {
		if string(event) == `"good"` {
			return nil
		}
		return errors.Join(os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600), errors.New("no good"))
	}))
	v := n.deploy(storing)
	id := newInvocation()
	a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease()}, []byte(`"bad"`))
	must(t, err)
	n.wantError(a, wire.CodeFunctionError, false, "no good")
	for _, key := range []string{wire.OutputResultKey(v.FunctionID, id), wire.OutputFileKey(v.FunctionID, id, "file")} {
		if found, err := shared.store.Exists(t.Context(), key); found || err != nil {
			t.Errorf("%s: found is %t, %v", key, found, err)
		}
	}
	id = newInvocation()
	a, err = n.send(wire.InvokeRequest{Invocation: id, Version: v}, []byte(`"good"`))
	must(t, err)
	n.wantBody(a, `"good"`)
	if found, err := shared.store.Exists(t.Context(), wire.OutputFileKey(v.FunctionID, id, "file")); found || err != nil {
		t.Errorf("the next invocation stored the file of the one before: %t, %v", found, err)
	}
}

// Without S3 nothing is reported as done that is not.
func TestWithoutS3(t *testing.T) {
	t.Parallel()
	way := &line{}
	n := startNode(t, each(echo), over(way.store(t)))
	stores, plain, unseen := n.deploy(storing), n.deploy(), n.deployCode(t.Name())
	n.wantBody(n.cold(stores, `1`), `1`)
	n.wantBody(n.cold(plain, `1`), `1`)
	way.cut()
	n.wantBody(n.warm(plain, `2`), `2`) // needs no S3

	requests := []wire.InvokeRequest{
		{Invocation: newInvocation(), Version: stores},
		{Version: plain, PayloadKey: "payloads/x"},
		{Version: unseen, Lease: newLease()},
	}
	answers := make([]answer, len(requests))
	var calls sync.WaitGroup
	for i, req := range requests { // at once, for each takes the S3 client's own patience
		calls.Go(func() {
			var err error
			if answers[i], err = n.send(req, []byte(`2`)); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	n.wantError(answers[0], wire.CodeInternal, false, "store the output")             // it ran
	n.wantError(answers[1], wire.CodeUnavailable, true, "event could not be fetched") // these did not
	n.wantError(answers[2], wire.CodeUnavailable, true, "code could not be fetched")
	event := wire.InvokeRequest{Version: plain, Event: true}
	waits, err := n.send(event, []byte(`3`))
	must(t, err)
	n.wantError(waits, wire.CodeUnavailable, true, "events wait") // nor did this one
	_, err = shared.conn.Last(t.Context(), wire.StreamStoredRecords, wire.AnyStoredRecordSubject(requests[0].Invocation))
	if !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("stored record: %v", err)
	}

	large := `"` + strings.Repeat("x", 3*mib/2) + `"`
	way.mend()
	id := newInvocation()
	must(t, shared.store.PutBytes(t.Context(), wire.RequestKey(id), []byte(large), "application/json"))
	req := wire.InvokeRequest{Invocation: id, Version: plain, Lease: newLease(), PayloadKey: wire.RequestKey(id)}
	a, err := n.send(req, nil)
	must(t, err)
	if a.Error != nil || a.PayloadKey == "" {
		t.Errorf("with S3 again: %+v", a.InvokeReply)
	}
	embedtest.Eventually(t, "an event's output in S3", func() bool {
		ran, err := n.send(event, []byte(`3`))
		must(t, err)
		return ran.Error == nil && ran.Output != nil
	})
}

// A result that S3 does not take is an error: the function ran, and its result is lost.
func TestResultIsLost(t *testing.T) {
	t.Parallel()
	way := &line{}
	way.onSend(func(sent []byte) {
		if bytes.HasPrefix(sent, []byte("PUT /dayfly/payloads/")) {
			go way.cut()
		}
	})
	n := startNode(t, each(func(*process, string, []byte) ([]byte, error) {
		return []byte(`"` + strings.Repeat("x", 3*mib/2) + `"`), nil
	}), over(way.store(t)))
	n.wantError(n.cold(n.deploy(), `1`), wire.CodeInternal, false, "could not be handed over")
}
