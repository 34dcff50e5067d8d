package wire_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

// TestMessagesAsJSON holds every message to its golden file: processes of two
// releases talk to each other, and the API's clients are written in any language.
// Each example has every field set, so that a new one cannot be forgotten.
func TestMessagesAsJSON(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 5e6, time.UTC)
	const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")
	version := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "team-a", Name: "thumbnail"}, Number: 3}
	code := wire.Digest(strings.Repeat("0a", 32))
	resources := wire.Resources{MemoryBytes: 1 << 27, CPUMillis: 100, Instances: 1}
	failure := &wire.Error{
		Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError", Trace: []string{"app.py:3"},
		Logs: "last\n", RetryAfterMillis: 1500, Retryable: true,
	}
	output := &wire.Output{ResultBytes: 12, Files: []wire.OutputFile{{Path: "a/b.png", Bytes: 3}}}
	attempt := wire.Attempt{
		Version: version, Node: "n1", Instance: "i1", Cold: true, StartedAt: at, EndedAt: at, InitMicros: 210_000, RunMicros: 12_345, Error: failure,
	}
	event := wire.Event{
		Invocation: id, Ref: "thumbnail.team-a:3", Source: wire.SourceQueue, AcceptedAt: at, PayloadKey: wire.RequestKey(id), PayloadBytes: 12,
		NotBefore: at, Cause: id, Depth: 1, Attempts: []wire.Attempt{attempt}, Order: "customer-7", Redrives: 1,
	}
	built := &wire.BuildReply{
		Error: failure, Manifest: []byte("name: x\n"), Code: code, CodeBytes: 12, Arch: "amd64", Log: "ok\n", Cached: true, Image: &wire.Image{
			Digest: code, Bytes: 12, RootBytes: 34, Arch: "amd64", Source: "Dockerfile",
			Command: []string{"/app"}, Env: []string{"A=1"}, WorkDir: "/srv",
		},
	}
	state := &wire.NodeState{
		Node: "n1", Run: "r1", Seq: 7, Capacity: resources, Reserved: resources, Idle: resources, Sandbox: "docker",
		Runtimes: []string{"python"}, Draining: true, Drained: true, Stopping: true,
		Versions: []wire.VersionOnNode{{Version: version, Starting: 1, Idle: 2, Busy: 3, Slots: 20, Kept: 1}},
		Ran:      []wire.Ran{{Version: version, Calls: 9, Errors: 1, Cold: 2, RunMicros: 12_345}},
		Stems:    map[string]int{"python/egress": 1}, Codes: []wire.Digest{code}, Settled: []wire.LeaseID{"l1"}, At: at, Load: 0.5, Build: "v1",
		Protocol: 1, Labels: map[string]string{wire.LabelZone: "a"},
	}
	for name, message := range map[string]any{
		"event":          &event,
		"dead_letter":    &wire.DeadLetter{Event: event, DiedAt: at, Reason: failure},
		"cancel_request": &wire.CancelRequest{Invocation: id},
		"invoke_request": &wire.InvokeRequest{Invocation: id, Version: version, Lease: "l1", Epoch: 7, PayloadKey: wire.RequestKey(id), Event: true, Start: true, Stream: wire.StreamSubject("d1", id), Cause: id, Depth: 2, Offer: 1<<64 - 1},
		"call_request": &wire.CallRequest{
			ID: id, Node: "n1", Caller: version, Cause: id, Depth: 2, Ref: "resize:8", Async: true, Key: "order-7", Subject: "orders.created",
			PayloadKey: wire.RequestKey(id), PatienceMillis: 29_000,
		},
		"call_reply": &wire.CallReply{ID: id, Beat: true, Error: failure, Invocation: id, ContentType: "text/plain", PayloadKey: wire.ResponseKey(id)},
		"invoke_reply": &wire.InvokeReply{
			Error: failure, PayloadKey: wire.ResponseKey(id), Node: "n1", Instance: "i1", StateSeq: 8, Cold: true, Spent: true, InitMicros: 210_000, RunMicros: 12_345,
			Output: output, Streamed: true, ContentType: "text/event-stream", Pieces: 9,
		},
		"stream_piece": &wire.StreamPiece{Node: "n1", Seq: 1, Head: &wire.StreamHead{
			ContentType: "text/event-stream", HTTP: true, Status: 201, Headers: map[string]string{"etag": "1"}, Cookies: []string{"a=b"},
		}},
		"stream_ack": &wire.StreamAck{Invocation: id, Taken: 12, Gone: true},
		"place_request": &wire.PlaceRequest{
			Invocation: id, Version: version, Runtime: "python", Code: code, Stem: wire.StemKey("python", "egress"), Needs: resources, MaxInstances: 50, Exclude: []wire.NodeID{"n2"}, Again: true,
			Selector: map[string]string{"disk": "ssd"}, Arch: "arm64", Protocol: 1,
		},
		"place_reply": &wire.PlaceReply{Node: "n1", Lease: "l1", Epoch: 7, Error: failure},
		"node_state":  state,
		"node_word": &wire.NodeWord{
			Whole: state,
			Delta: &wire.NodeDelta{Run: "r1", Seq: 8, At: at, Load: 0.5, Change: &wire.NodeChange{
				Reserved: &resources, Idle: &resources, Draining: new(true),
				Versions:     []wire.VersionOnNode{{Version: version, Starting: 1, Idle: 2, Busy: 3, Slots: 20, Kept: 1}},
				VersionsGone: []wire.VersionID{version},
				Ran:          []wire.Ran{{Version: version, Calls: 9, Errors: 1, Cold: 2, RunMicros: 12_345}},
				RanGone:      []wire.VersionID{version},
				Stems:        map[string]int{"python/egress": 1}, StemsGone: []string{"node/none"},
				Codes: []wire.Digest{code}, CodesGone: []wire.Digest{code}, Settled: []wire.LeaseID{"l1"},
			}},
		},
		"fence_request":   &wire.FenceRequest{Run: "r1", Epoch: 7},
		"inquiry_request": &wire.InquiryRequest{Offers: []wire.Offer{{Invocation: id, Number: 1<<64 - 1, AgeMillis: 1500}}},
		"inquiry_reply":   &wire.InquiryReply{Fates: []wire.Fate{wire.FateUnderWay, wire.FateAnswered, wire.FateNever, wire.FateUnknown}},
		"node_order":      &wire.NodeOrder{Draining: true, At: at},
		"drain_state": &wire.DrainState{
			Node: "n1", Ordered: true, Since: at, Gone: true, Draining: true, Drained: true, Instances: 3, Busy: 1, Stems: 2,
			Kept: []wire.KeptOnNode{{Version: version, Count: 2, Elsewhere: 2, Ready: 1}},
		},
		"role_state":      &wire.RoleState{Process: "p1", Role: "invoker", Host: "h1", Node: "n1", Build: "v1", Protocol: 1, Since: at, At: at, Leads: true},
		"keep_request":    &wire.KeepRequest{Version: version, Count: 2, Epoch: 7, Lease: "l1"},
		"keep_reply":      &wire.KeepReply{Error: failure},
		"build_request":   &wire.BuildRequest{ID: "b1", Bundle: wire.BundleKey("b1"), Namespace: "ns", Vendor: true},
		"build_progress":  &wire.BuildProgress{Log: "Collecting\n", Again: true, Reply: built},
		"build_reply":     built,
		"rebuild_request": &wire.RebuildRequest{ID: "b1", Root: "python", Archive: wire.BundleKey("b1")},
		"rebuild_reply": &wire.RebuildReply{Error: failure, Log: "ok\n", Root: &wire.Root{
			Name: "python", Arch: "amd64", Recipe: code, Digest: code, Bytes: 12, BuiltAt: at, Revision: 2, Source: wire.SourcePackages,
			Replaced: []wire.ReplacedRoot{{Digest: code, At: at}},
		}},
		"log_entry": &wire.LogEntry{Invocation: id, Version: version, Node: "n1", Instance: "i1", Time: at, Text: "hello\n", Last: true, Sequence: 7},
		"record": &wire.Record{
			Invocation: id, Version: version, State: wire.StateFailed, Node: "n1", Instance: "i1", Cold: true, StartedAt: at, EndedAt: at,
			InitMicros: 210_000, RunMicros: 12_345, Error: failure,
			Output: output, Source: wire.SourceQueue, AcceptedAt: at, Cause: id, Redrives: 1, Attempts: []wire.Attempt{attempt}, PayloadKey: wire.RestKey(id, "1"), NextAttemptAt: at,
		},
		"problem": &wire.Problem{
			Type: "https://dayfly.run/errors/function.error", Title: "The function failed", Status: 502, Code: wire.CodeFunctionError,
			Detail: "division by zero", Invocation: id, ErrorType: "ZeroDivisionError", Trace: []string{"app.py:3"}, Logs: "last\n",
			RetryAfterMillis: 1500, Retryable: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantSet(t, name, reflect.ValueOf(message))
			got, err := json.MarshalIndent(message, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", append(got, '\n'))
			again := reflect.New(reflect.TypeOf(message).Elem()).Interface()
			decoder := json.NewDecoder(bytes.NewReader(got))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(message, again); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

// golden compares with a file under testdata; run with DAYFLY_UPDATE_GOLDEN=1 to
// write it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("DAYFLY_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// wantSet fails when a field has its zero value.
func wantSet(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		wantSet(t, path, v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			field := path + "." + v.Type().Field(i).Name
			if v.Field(i).IsZero() {
				t.Errorf("%s is not set", field)
				continue
			}
			wantSet(t, field, v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			wantSet(t, path, v.Index(i))
		}
	}
}

func TestProblemTellsItsError(t *testing.T) {
	p := wire.Problem{
		Title: "The function failed", Code: wire.CodeFunctionError, Detail: "division by zero", ErrorType: "ZeroDivisionError",
		Trace: []string{"app.py:3"}, Logs: "last\n", RetryAfterMillis: 1500, Retryable: true,
	}
	want := &wire.Error{
		Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError", Trace: []string{"app.py:3"},
		Logs: "last\n", RetryAfterMillis: 1500, Retryable: true,
	}
	if diff := cmp.Diff(want, p.Err()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	p.Detail = ""
	if got := p.Err().Message; got != p.Title {
		t.Errorf("without a detail it says %q", got)
	}
}
