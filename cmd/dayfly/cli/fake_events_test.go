package cli_test

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// deadRecord is of an event that failed twice.
func deadRecord() wire.Record {
	v := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "thumbnail"}, Number: 3}
	attempts := []wire.Attempt{
		{Version: v, Node: "n1", StartedAt: noon, EndedAt: noon.Add(time.Second), RunMicros: 1e6, Error: failures["crash"]},
		{Version: v, Node: "n2", StartedAt: noon.Add(5 * time.Second), EndedAt: noon.Add(6 * time.Second), RunMicros: 1e6, Error: failures["crash"]},
	}
	return wire.Record{
		Invocation: deadCall, Version: v, State: wire.StateDead, Node: "n2", Instance: "i2", StartedAt: attempts[1].StartedAt, EndedAt: attempts[1].EndedAt,
		RunMicros: 1e6, Error: failures["crash"], Source: wire.SourceQueue, AcceptedAt: noon, Attempts: attempts,
	}
}

func (f *fakeAPI) invocations(w http.ResponseWriter, r *http.Request) error {
	query, err := f.query(r, "state", "limit")
	if err != nil {
		return err
	}
	f.mu.Lock()
	function, _, err := f.find(r)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	list := []wire.Record{}
	if function.Name == "thumbnail" {
		list = append(list, deadRecord())
		if query.Get("state") == "" {
			waiting := wire.Record{Invocation: waitingCall, Version: wire.VersionID{FunctionID: function.FunctionID}, State: wire.StateAccepted, AcceptedAt: noon}
			list = append([]wire.Record{waiting}, list...)
		}
	}
	return answer(w, http.StatusOK, map[string]any{"invocations": list})
}

func (f *fakeAPI) cancel(w http.ResponseWriter, r *http.Request) error {
	if id := wire.InvocationID(r.PathValue("id")); id != waitingCall {
		return wire.Errorf(wire.CodeConflict, "invocation %s is over already: succeeded", id)
	}
	return answer(w, http.StatusOK, wire.Record{Invocation: waitingCall, State: wire.StateCancelled})
}

func deadLetter() client.DeadLetter {
	r := deadRecord()
	return client.DeadLetter{DeadLetter: wire.DeadLetter{
		Event:  wire.Event{Invocation: deadCall, Ref: "thumbnail", Source: r.Source, AcceptedAt: noon, PayloadBytes: 7, Attempts: r.Attempts},
		DiedAt: noon, Reason: r.Error,
	}}
}

func (f *fakeAPI) deadLetters(w http.ResponseWriter, r *http.Request) error {
	if _, err := f.query(r, "limit"); err != nil {
		return err
	}
	list := []client.DeadLetter{}
	if r.PathValue("ref") == "thumbnail" {
		list = append(list, deadLetter())
	}
	return answer(w, http.StatusOK, map[string]any{"deadLetters": list})
}

func (f *fakeAPI) deadLetter(w http.ResponseWriter, r *http.Request) error {
	letter := deadLetter()
	if r.PathValue("id") != string(deadCall) {
		return wire.Errorf(wire.CodeNotFound, "no such dead letter")
	}
	letter.Payload = json.RawMessage(`{"n":1}`)
	return answer(w, http.StatusOK, letter)
}

// redrive gives back one at a time.
func (f *fakeAPI) redrive(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Invocations []wire.InvocationID `json:"invocations"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return f.violation("redrive: %s", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.redriven++
	return answer(w, http.StatusOK, map[string]any{
		"invocations": []wire.InvocationID{deadCall}, "more": len(body.Invocations) == 0 && f.redriven == 1,
	})
}

func (f *fakeAPI) purge(w http.ResponseWriter, r *http.Request) error {
	purged := len(r.URL.Query()["invocation"])
	if purged == 0 {
		purged = 7
	}
	return answer(w, http.StatusOK, map[string]int{"purged": purged})
}
