package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// maxDeadLetters bounds a list, and how many come back at once.
const maxDeadLetters = 1000

// routeDeadLetters adds what can be done with events that were given up.
func (g *Gateway) routeDeadLetters(api huma.API) {
	const path = "/v1/functions/{ref}/dead-letters"
	huma.Register(api, operation(http.MethodGet, path, "listDeadLetters", "List the events of a function that were given up, the newest first"), g.listDeadLetters)
	huma.Register(api, operation(http.MethodGet, path+"/{id}", "getDeadLetter", "Describe an event that was given up, with all attempts"), g.getDeadLetter)
	huma.Register(api, operation(http.MethodPost, path+"/redrive", "redriveDeadLetters", "Give events another try, the oldest first"), g.redriveDeadLetters)
	huma.Register(api, operation(http.MethodDelete, path, "purgeDeadLetters", "Forget events that were given up"), g.purgeDeadLetters)
}

type deadLetterList struct {
	Body struct {
		DeadLetters []wire.DeadLetter `json:"deadLetters"`
	}
}

func (g *Gateway) listDeadLetters(ctx context.Context, in *struct {
	Ref   string `path:"ref" doc:"Function"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"How many, the newest ones"`
}) (*deadLetterList, error) {
	f, err := g.deadLettersOf(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &deadLetterList{}
	out.Body.DeadLetters = []wire.DeadLetter{}
	read := bus.ReadOptions{Stream: wire.StreamDeadLetters, Subject: wire.FunctionDeadLetters(f), Tail: in.Limit}
	err = g.deps.Conn.Read(ctx, read, func(m bus.StreamMsg) error {
		letter, _, err := parseDeadLetter(m.Data)
		out.Body.DeadLetters = append(out.Body.DeadLetters, letter)
		return err
	})
	if err != nil {
		return nil, newProblem(readFailed(err))
	}
	slices.Reverse(out.Body.DeadLetters)
	return out, nil
}

// deadLettersOf is the function whose dead letters are meant. They outlive it.
func (g *Gateway) deadLettersOf(text string) (wire.FunctionID, error) {
	ref, err := wire.ParseRef(text)
	if err != nil {
		return wire.FunctionID{}, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return ref.FunctionID, nil
}

func parseDeadLetter(data []byte) (letter wire.DeadLetter, payload []byte, err error) {
	if payload, err = wire.ParseFrame(data, &letter); err != nil {
		return letter, nil, wire.Errorf(wire.CodeInternal, "a dead letter is damaged: %s", err)
	}
	return letter, payload, nil
}

// deadLetterOutput also has the payload, unless that is too large for a message.
type deadLetterOutput struct {
	Body struct {
		wire.DeadLetter
		Payload json.RawMessage `json:"payload,omitempty"`
	}
}

func (g *Gateway) getDeadLetter(ctx context.Context, in *struct {
	Ref string `path:"ref" doc:"Function"`
	ID  string `path:"id" doc:"Invocation ID"`
}) (*deadLetterOutput, error) {
	f, err := g.deadLettersOf(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	id, err := parseInvocation(in.ID)
	if err != nil {
		return nil, newProblem(err)
	}
	m, err := g.deps.Conn.LastMessage(ctx, wire.StreamDeadLetters, wire.DeadLetterSubject(f, id))
	if errors.Is(err, bus.ErrNotFound) {
		return nil, newProblem(wire.Errorf(wire.CodeNotFound, "%s has no dead letter %s; `dayfly dlq list %s` lists them", f, id, f))
	}
	if err != nil {
		return nil, newProblem(readFailed(err))
	}
	letter, payload, err := parseDeadLetter(m.Data)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &deadLetterOutput{}
	out.Body.DeadLetter = letter
	if json.Valid(payload) {
		out.Body.Payload = payload
	}
	return out, nil
}

// chosenIDs names dead letters; none means all.
type chosenIDs struct {
	Invocations []wire.InvocationID `json:"invocations,omitempty" maxItems:"1000" doc:"Only these; all when there are none"`
}

type redriven struct {
	Body struct {
		Invocations []wire.InvocationID `json:"invocations"`
		// More says that there are others: ask again.
		More bool `json:"more"`
	}
}

// redriveDeadLetters puts events back into their queues.
func (g *Gateway) redriveDeadLetters(ctx context.Context, in *struct {
	Ref  string `path:"ref" doc:"Function"`
	Body chosenIDs
}) (*redriven, error) {
	// Only for a function that exists: the events would die again at once.
	f, _, err := g.resolve(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	ids, more, err := g.chosen(ctx, f.FunctionID, in.Body.Invocations)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &redriven{}
	out.Body.Invocations, out.Body.More = make([]wire.InvocationID, 0, len(ids)), more
	for _, id := range ids {
		if err := g.deps.Intake.Redrive(ctx, f.FunctionID, id); err != nil {
			e := *wire.AsError(err)
			e.Message += fmt.Sprintf(" (%d of %d events came back)", len(out.Body.Invocations), len(ids))
			return nil, newProblem(&e)
		}
		out.Body.Invocations = append(out.Body.Invocations, id)
	}
	return out, nil
}

type purged struct {
	Body struct {
		Purged int `json:"purged"`
	}
}

func (g *Gateway) purgeDeadLetters(ctx context.Context, in *struct {
	Ref         string   `path:"ref" doc:"Function"`
	Invocations []string `query:"invocation,explode" doc:"Only these; all when there are none"`
}) (*purged, error) {
	f, err := g.deadLettersOf(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	only := make([]wire.InvocationID, 0, len(in.Invocations))
	for _, text := range in.Invocations {
		id, err := parseInvocation(text)
		if err != nil {
			return nil, newProblem(err)
		}
		only = append(only, id)
	}
	out := &purged{}
	for more := true; more; {
		var ids []wire.InvocationID
		if ids, more, err = g.chosen(ctx, f, only); err != nil {
			return nil, newProblem(err)
		}
		for _, id := range ids {
			if err := g.deps.Intake.Bury(ctx, f, id); err != nil {
				return nil, newProblem(err)
			}
			out.Body.Purged++
		}
	}
	return out, nil
}

// chosen returns the dead letters that are meant, the oldest first, and whether there
// are more than one request takes.
func (g *Gateway) chosen(ctx context.Context, f wire.FunctionID, only []wire.InvocationID) (ids []wire.InvocationID, more bool, err error) {
	for _, id := range only {
		if !id.Valid() { // it becomes part of a subject
			return nil, false, wire.Errorf(wire.CodeInvalid, "%q is no invocation ID", id)
		}
	}
	if len(only) > 0 {
		return only, false, nil
	}
	subjects, err := g.deps.Conn.Subjects(ctx, wire.StreamDeadLetters, wire.FunctionDeadLetters(f))
	if err != nil {
		return nil, false, readFailed(err)
	}
	more = len(subjects) > maxDeadLetters
	for _, subject := range subjects[:min(len(subjects), maxDeadLetters)] {
		ids = append(ids, wire.InvocationID(subject[strings.LastIndexByte(subject, '.')+1:]))
	}
	return ids, more, nil
}
