package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

func (f *fakeAPI) invoke(w http.ResponseWriter, r *http.Request) error {
	ref, err := wire.ParseRef(r.PathValue("ref"))
	if err != nil {
		return f.violation("%s", err)
	}
	event, err := io.ReadAll(r.Body)
	if err != nil {
		return f.violation("event: %s", err)
	}
	if int64(len(event)) != r.ContentLength {
		return f.violation("event of %d bytes with Content-Length %d", len(event), r.ContentLength)
	}
	h := w.Header()
	if failure, ok := failures[ref.Name]; ok {
		h.Set(wire.HeaderInvocation, string(badCall))
		httpapi.WriteProblem(w, failure, badCall)
		return nil
	}
	f.mu.Lock()
	_, _, err = f.find(r)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	h.Set(wire.HeaderInvocation, string(goodCall))
	h.Set(wire.HeaderVersion, "3")
	if r.Header.Get("Prefer") == wire.RespondAsync {
		if r.Header.Get(wire.HeaderIdempotencyKey) == "again" {
			h.Set(wire.HeaderRepeated, "true")
		}
		return answer(w, http.StatusAccepted, map[string]any{"invocation": goodCall})
	}
	h.Set(wire.HeaderRunMicros, "12345")
	h.Set(wire.HeaderCold, strconv.FormatBool(ref.Qualifier == "beta"))
	if ref.Qualifier == "beta" {
		h.Set(wire.HeaderInitMicros, "210000")
	}
	_, err = w.Write(event)
	return err
}

// publish takes what is for orders.
func (f *fakeAPI) publish(w http.ResponseWriter, r *http.Request) error {
	subject := r.PathValue("subject")
	if !wire.ValidSubject(subject) {
		return f.violation("subject %q", subject)
	}
	message, err := io.ReadAll(r.Body)
	if err != nil || int64(len(message)) != r.ContentLength {
		return f.violation("message of %d bytes with Content-Length %d, %v", len(message), r.ContentLength, err)
	}
	if subject != "orders.created" {
		return wire.Errorf(wire.CodeNotFound, "no trigger listens to %s", subject)
	}
	accepted := 1
	if r.Header.Get("Content-Type") == "application/cloudevents-batch+json" {
		var items []json.RawMessage
		if err := json.Unmarshal(message, &items); err != nil {
			return f.violation("batch: %s", err)
		}
		accepted = len(items)
	}
	return answer(w, http.StatusAccepted, map[string]int{"accepted": accepted})
}

// logs keeps a followed stream open until its reader leaves, but for the alias
// beta, whose server ends it and has more when it is asked again. Filters are answered
// with what was asked.
func (f *fakeAPI) logs(w http.ResponseWriter, r *http.Request) error {
	query, err := f.query(r, "follow", "tail", "invocation", "version", "instance", "level", "contains", "since", "after")
	if err != nil {
		return err
	}
	f.mu.Lock()
	_, ref, err := f.find(r)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	at := time.Date(2026, 5, 1, 12, 0, 0, 5e6, time.UTC)
	entries := []wire.LogEntry{
		{Invocation: goodCall, Node: "n1", Instance: "i1", Time: at, Text: "reading cat.png\nscaling\n", Sequence: 1},
		{Invocation: badCall, Node: "n1", Instance: "i2", Time: at.Add(time.Second), Text: "no newline", Last: ref.Qualifier != "beta", Sequence: 2},
		{Invocation: goodCall, Node: "n1", Instance: "i1", Time: at.Add(2 * time.Second), Last: true, Sequence: 3},
	}
	if after := query.Get("after"); after != "" {
		if after != "2" || ref.Qualifier != "beta" {
			return f.violation("after %q", after)
		}
		entries = []wire.LogEntry{{Invocation: badCall, Node: "n1", Instance: "i2", Time: at.Add(time.Minute), Text: "more\n", Last: true, Sequence: 9}}
	} else if query.Has("level") || query.Has("contains") || query.Has("since") || query.Has("version") {
		entries = []wire.LogEntry{{Invocation: goodCall, Time: at, Text: "WARN " + r.URL.RawQuery}}
	} else if tail := query.Get("tail"); tail != "" {
		n, err := strconv.Atoi(tail)
		if err != nil || n < 0 || n > wire.MaxLogTail {
			return f.violation("tail %q", tail)
		}
		entries = entries[max(0, len(entries)-n):]
	} else {
		return f.violation("logs without a tail")
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for _, entry := range entries {
		if id := query.Get("invocation"); id != "" && id != string(entry.Invocation) {
			continue
		}
		entry.Version = wire.VersionID{FunctionID: ref.FunctionID, Number: 3}
		if err := json.NewEncoder(w).Encode(entry); err != nil {
			return err
		}
	}
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	if query.Get("follow") == "true" && ref.Qualifier != "beta" {
		<-r.Context().Done()
	}
	return nil
}

func (f *fakeAPI) invocation(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	record := wire.Record{
		Invocation: wire.InvocationID(r.PathValue("id")), State: wire.StateSucceeded, Node: "n1", Instance: "i1",
		Version:   wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "thumbnail"}, Number: 3},
		StartedAt: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), EndedAt: time.Date(2026, 5, 1, 12, 0, 1, 0, time.UTC), RunMicros: 12345,
	}
	switch record.Invocation {
	case goodCall:
		record.Cold, record.InitMicros = true, 210_000
		record.Output = &wire.Output{ResultBytes: 12, Files: []wire.OutputFile{{Path: "thumbs/my cat.png", Bytes: 3300}}}
	case badCall:
		record.State, record.Error = wire.StateFailed, failures["crash"]
	case deadCall:
		record = deadRecord()
	case waitingCall:
		wait := r.URL.Query().Get("wait")
		if _, err := time.ParseDuration(wait); wait != "" && err != nil {
			return f.violation("wait %q", wait)
		}
		record = wire.Record{Invocation: waitingCall, State: wire.StateAccepted, Version: wire.VersionID{FunctionID: record.Version.FunctionID},
			Source: wire.SourceHTTP, AcceptedAt: record.StartedAt}
	default:
		return wire.Errorf(wire.CodeNotFound, "there is no invocation %s", record.Invocation)
	}
	return answer(w, http.StatusOK, record)
}

func (f *fakeAPI) output(w http.ResponseWriter, r *http.Request) error {
	content, ok := map[string]string{"": `{"ok":true}`, "thumbs/my cat.png": "png\x00\xff"}[r.PathValue("path")]
	if !ok || r.PathValue("id") != string(goodCall) {
		return wire.Errorf(wire.CodeNotFound, "the invocation left no such output")
	}
	_, err := io.WriteString(w, content)
	return err
}

func (f *fakeAPI) nodes(w http.ResponseWriter, _ *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := wire.FunctionID{Namespace: "default", Name: "thumbnail"}
	return answer(w, http.StatusOK, map[string]any{"nodes": []client.Node{
		{LastSeen: f.ago(0), NodeState: wire.NodeState{
			Node: "n1", Run: "r1", Seq: 7, Sandbox: "docker", Stems: map[string]int{"base/egress": 1, "python/egress": 2}, Runtimes: []string{"python", "node"}, Load: 0.5, Build: "dev",
			Protocol: 1, Labels: map[string]string{"arch": "amd64", "zone": "rack-1", "disk": "ssd"},
			Capacity: wire.Resources{MemoryBytes: 8 << 30, CPUMillis: 4000, Instances: 100},
			Reserved: wire.Resources{MemoryBytes: 768 << 20, CPUMillis: 750, Instances: 3},
			Versions: []wire.VersionOnNode{{Version: wire.VersionID{FunctionID: id, Number: 3}, Idle: 1, Busy: 2, Slots: 3, Kept: 1}},
			Ran:      []wire.Ran{{Version: wire.VersionID{FunctionID: id, Number: 3}, Calls: f.ran(), Errors: 1, RunMicros: 2000 * int64(f.asked)}},
		}},
		{LastSeen: f.ago(5*time.Minute + time.Second), DriftMillis: -1500, OtherBuild: true, NodeState: wire.NodeState{
			Node: "node-two", Run: "r2", Seq: 1, Sandbox: "docker", Runtimes: []string{"python"}, Draining: true, Build: "v1.2.3",
		}},
		{Gone: true, NodeState: wire.NodeState{Node: "old", Draining: true}},
	}})
}

func (f *fakeAPI) roles(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, map[string]any{"protocol": wire.Protocol, "roles": []client.Role{
		{RoleState: wire.RoleState{Role: "gateway", Host: "h1", Build: "dev", Protocol: wire.Protocol}},
		{RoleState: wire.RoleState{Role: "invoker", Host: "h2", Node: "n1", Build: "v1.0.0", Protocol: wire.Protocol - 2}, DriftMillis: -90_000},
		{RoleState: wire.RoleState{Role: "scheduler", Host: "h1", Build: "dev", Protocol: wire.Protocol, Leads: true}},
	}})
}

// ran is how many calls a node has seen: more at each request. The caller holds mu.
func (f *fakeAPI) ran() uint64 {
	if !f.frozen {
		f.asked++
	}
	return 40 * uint64(f.asked)
}

func (f *fakeAPI) health(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, client.Health{Build: "dev", Now: time.Now(), Checks: []client.HealthCheck{
		{Name: "NATS"}, {Name: "builder", Problem: "no builder is connected"},
	}})
}

func proxyPage(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusBadGateway)
	_, err := io.WriteString(w, "<html><h1>Bad Gateway</h1></html>")
	return err
}

func otherServer(w http.ResponseWriter, _ *http.Request) error {
	_, err := io.WriteString(w, strings.Repeat("hello ", 3))
	return err
}

func emptyList(document string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		return answer(w, http.StatusOK, json.RawMessage(document))
	}
}
