package gateway

import (
	"net/http"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// wantsAsync reports whether the caller asks for an answer before the function runs
// (RFC 7240).
func wantsAsync(r *http.Request) bool {
	for _, line := range r.Header.Values("Prefer") {
		for preference := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(name), wire.RespondAsync) {
				return true
			}
		}
	}
	return false
}

// acceptance is the answer to an event that is on disk.
type acceptance struct {
	Invocation wire.InvocationID `json:"invocation"`
}

// accept takes an event that runs later. The answer is written once it is on disk.
// The caller has set what the request gives of the event and its payload.
func (g *Gateway) accept(w http.ResponseWriter, r *http.Request, v functions.Version, request intake.Request) error {
	request.Event.Ref, request.Event.Source = refParam(r), wire.SourceHTTP
	request.Key = r.Header.Get(wire.HeaderIdempotencyKey)
	if g.isDraining() { // what is on disk is safe, but a client may not hear of it
		return wire.Errorf(wire.CodeUnavailable, "the gateway is being stopped")
	}
	accepted, err := g.deps.Intake.Accept(r.Context(), request)
	if err != nil {
		return err
	}
	g.metrics.accepted.Inc()
	setCallHeaders(w.Header(), accepted.Invocation, v, wire.InvokeReply{})
	h := w.Header()
	h.Set("Location", "/v1/invocations/"+string(accepted.Invocation))
	h.Set("Preference-Applied", wire.RespondAsync)
	if accepted.Repeated {
		h.Set(wire.HeaderRepeated, "true")
	}
	return writeJSON(w, http.StatusAccepted, acceptance{accepted.Invocation})
}

func (g *Gateway) isDraining() bool {
	select {
	case <-g.draining:
		return true
	default:
		return false
	}
}

// acceptLarge takes an event that is too large to be looked at, or of unknown length,
// on its way to S3. What is no JSON fails in the function.
func (g *Gateway) acceptLarge(w http.ResponseWriter, r *http.Request, v functions.Version) error {
	if r.ContentLength > wire.MaxAsyncPayload {
		return wire.Errorf(wire.CodeTooLarge, "the event is over %d bytes; put large data into S3 and send its key", int64(wire.MaxAsyncPayload))
	}
	defer boundBody(w, uploadTimeout)()
	return g.accept(w, r, v, intake.Request{Body: r.Body})
}
