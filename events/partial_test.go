package events_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// batch is the payload of messages 0 to n-1, each with so much in it.
func batch(n, bytes int) []byte {
	var records []string
	for i := range n {
		records = append(records, fmt.Sprintf(`{"messageId":"m%d","body":"%s"}`, i, strings.Repeat("x", bytes)))
	}
	return []byte(`{"Records":[` + strings.Join(records, ",") + `]}`)
}

// failing is a function that fails at the messages of each attempt, one attempt after
// the other, and notes which it was given.
func failing(env *environment, attempts ...[]string) (given func() [][]string) {
	var mu sync.Mutex
	var seen [][]string
	env.node.run = func(ctx context.Context, call dispatch.Call) (any, error) {
		payload := call.Payload
		if call.PayloadKey != "" {
			var err error
			if payload, err = env.store.GetBytes(ctx, call.PayloadKey, wire.MaxAsyncPayload); err != nil {
				return nil, err
			}
		}
		var event struct {
			Records []struct {
				ID string `json:"messageId"`
			} `json:"Records"`
		}
		if err := json.Unmarshal(payload, &event); err != nil {
			return nil, err
		}
		var ids []string
		for _, r := range event.Records {
			ids = append(ids, r.ID)
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, ids)
		failures := []map[string]string{}
		if len(seen) <= len(attempts) {
			for _, id := range attempts[len(seen)-1] {
				failures = append(failures, map[string]string{"itemIdentifier": id})
			}
		}
		return map[string]any{"batchItemFailures": failures}, nil
	}
	return func() [][]string {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// TestPartOfABatch: only what failed is tried again.
func TestPartOfABatch(t *testing.T) {
	for name, bytes := range map[string]int{"small": 10, "large": 700 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newEnvironment(t)
			given := failing(env, []string{"m3", "m1", "m2"}, []string{"m1", "m2"}, nil)
			env.worker()
			id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", Source: wire.SourceQueue}, Payload: batch(5, bytes)})
			r := env.await("f", id, wire.StateSucceeded)
			want := [][]string{{"m0", "m1", "m2", "m3", "m4"}, {"m1", "m2", "m3"}, {"m1", "m2"}}
			if diff := cmp.Diff(want, given()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(r.Attempts) != 3 || r.Attempts[0].Error == nil || !strings.Contains(r.Attempts[0].Error.Message, "3 of 5 messages") {
				t.Errorf("record %+v", r)
			}
			env.wantNoPayload(id)
		})
	}
}

// TestDeadPartOfABatch: the dead letter has what failed, and no more.
func TestDeadPartOfABatch(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.Retry.Attempts = 2 })
	given := failing(env, []string{"m1"}, []string{"m1"})
	env.worker()
	id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", Source: wire.SourceQueue}, Payload: batch(3, 10)})
	env.await("f", id, wire.StateDead)
	m, err := env.conn.LastMessage(t.Context(), wire.StreamDeadLetters, wire.DeadLetterSubject(functionID("f"), id))
	if err != nil {
		t.Fatal(err)
	}
	var letter wire.DeadLetter
	body, err := wire.ParseFrame(m.Data, &letter)
	if err != nil || !strings.Contains(string(body), "m1") || strings.Contains(string(body), "m2") {
		t.Errorf("dead letter of %s, %v", body, err)
	}
	env.wantNoPayload(id)
	if err := env.intake.Redrive(t.Context(), functionID("f"), id); err != nil {
		t.Fatal(err)
	}
	env.await("f", id, wire.StateSucceeded)
	if diff := cmp.Diff([][]string{{"m0", "m1", "m2"}, {"m1"}, {"m1"}}, given()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReportOfOthers: what looks like a report is none where no batch was given.
func TestReportOfOthers(t *testing.T) {
	env := newEnvironment(t)
	failing(env, []string{"m1"})
	env.worker()
	id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", Source: wire.SourceHTTP}, Payload: batch(3, 10)})
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 1 {
		t.Errorf("record %+v", r)
	}
}

// wantNoPayload fails when something of an event's payload is left in S3.
func (env *environment) wantNoPayload(id wire.InvocationID) {
	env.t.Helper()
	removed, err := env.store.DeleteOlder(env.t.Context(), "payloads/"+string(id)+"/", farFuture())
	if err != nil || removed > 0 {
		env.t.Errorf("%d payloads are left, %v", removed, err)
	}
}
