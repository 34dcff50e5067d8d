package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/cloudevent"
	"github.com/dayfly-run/dayfly/internal/s3event"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// routeEvents adds what takes events for triggers.
func (g *Gateway) routeEvents(api huma.API) {
	for _, raw := range []struct {
		op     huma.Operation
		handle rawHandler
	}{
		{rawOperation(http.MethodPost, "/v1/events/{subject}", "publishEvents",
			"Publish to a NATS subject: a CloudEvent 1.0 in the binary or structured way, a batch of them, or anything else as one message",
			"application/octet-stream", "application/json", http.StatusAccepted), g.publishEvents},
		{rawOperation(http.MethodPost, "/v1/buckets/notifications", "notifyBucket",
			"Take a notification of an S3 server about its buckets, in Amazon's form", "application/json", "application/json", http.StatusAccepted), g.notifyBucket},
	} {
		api.OpenAPI().AddOperation(&raw.op)
		g.router.Method(raw.op.Method, raw.op.Path, raw.handle)
	}
}

// published is the answer to events that are on disk.
type published struct {
	// Accepted counts them.
	Accepted int `json:"accepted"`
}

// publishEvents puts what a request carries into the stream that keeps the subject.
func (g *Gateway) publishEvents(w http.ResponseWriter, r *http.Request) error {
	subject, err := url.PathUnescape(chi.URLParam(r, "subject"))
	if err != nil || !wire.ValidSubject(subject) {
		return wire.Errorf(wire.CodeInvalid, "%q is not a NATS subject to publish on; write words with dots between them, without * and >", subject)
	}
	if first, _, _ := strings.Cut(subject, "."); first == "dayfly" || first == "_INBOX" || strings.HasPrefix(first, "$") {
		return wire.Errorf(wire.CodeInvalid, "subject %q belongs to the system; publish on one of your own", subject)
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	messages, err := g.messagesOf(r, subject, body)
	if err != nil {
		return err
	}
	for i, m := range messages {
		if err := g.send(r.Context(), m); err != nil {
			if e := wire.AsError(err); i > 0 {
				e.Message += "; of the batch, the events before number " + strconv.Itoa(i+1) + " are published, and may be sent again as they are"
				return e
			}
			return err
		}
	}
	g.log.Debug("events published", "subject", subject, "count", len(messages))
	return writeJSON(w, http.StatusAccepted, published{len(messages)})
}

// messagesOf reads the messages that a request carries.
func (g *Gateway) messagesOf(r *http.Request, subject string, body []byte) ([]bus.Outgoing, error) {
	kind := r.Header.Get("Content-Type")
	var events []cloudevent.Event
	var err error
	switch {
	case cloudevent.IsBatch(kind):
		events, err = cloudevent.ParseBatch(body)
	case cloudevent.IsStructured(kind):
		events = make([]cloudevent.Event, 1)
		events[0], err = cloudevent.Parse(body)
	case strings.HasPrefix(strings.ToLower(kind), "application/cloudevents"):
		return nil, wire.Errorf(wire.CodeInvalid, "CloudEvents of type %s are not understood; send %s or %s", kind, cloudevent.StructuredType, cloudevent.BatchType)
	default:
		event, isOne, e := cloudevent.FromHeaders(r.Header, body)
		if !isOne {
			return g.checked([]bus.Outgoing{plainMessage(r, subject, body)})
		}
		events, err = []cloudevent.Event{event}, e
	}
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "this is no CloudEvent: %s", err)
	}
	messages := make([]bus.Outgoing, len(events))
	for i, e := range events {
		messages[i] = cloudMessage(r, subject, e)
	}
	return g.checked(messages)
}

// cloudMessage is a CloudEvent as a message. Its source and ID tell a repeat, and its
// partition key is what it must not overtake.
func cloudMessage(r *http.Request, subject string, e cloudevent.Event) bus.Outgoing {
	headers := e.Headers()
	if key := r.Header.Get(wire.HeaderKey); key != "" {
		headers[wire.HeaderKey] = key
	} else if key := headers["ce-partitionkey"]; key != "" {
		headers[wire.HeaderKey] = key
	}
	return bus.Outgoing{Subject: subject, ID: messageID(subject, e.Source(), e.ID()), Headers: headers, Data: e.Data}
}

// plainMessage is anything else as a message; an idempotency key tells a repeat.
func plainMessage(r *http.Request, subject string, body []byte) bus.Outgoing {
	m := bus.Outgoing{Subject: subject, Headers: map[string]string{}, Data: body}
	for _, name := range []string{"Content-Type", wire.HeaderKey} {
		if value := r.Header.Get(name); value != "" {
			m.Headers[name] = value
		}
	}
	if key := r.Header.Get(wire.HeaderIdempotencyKey); key != "" {
		m.ID = messageID(subject, key)
	}
	return m
}

// messageID is what a stream knows a message by.
func messageID(parts ...string) string {
	digest := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(digest[:])
}

// checked refuses messages that NATS would not take.
func (g *Gateway) checked(messages []bus.Outgoing) ([]bus.Outgoing, error) {
	most := g.deps.Conn.MaxPayload() - wire.FrameHeadroom
	for _, m := range messages {
		if len(m.Data) > most {
			return nil, wire.Errorf(wire.CodeTooLarge,
				"the event has %d bytes, a message at most %d; put large data into S3 and publish its key, or call the function with Prefer: respond-async", len(m.Data), most)
		}
	}
	return messages, nil
}

// send puts one message into the stream that keeps its subject.
func (g *Gateway) send(ctx context.Context, m bus.Outgoing) error {
	heard := g.isHeard(m.Subject)
	stream, err := g.deps.Conn.Send(ctx, m)
	switch {
	case errors.Is(err, bus.ErrNoResponders) && heard:
		return wire.Errorf(wire.CodeUnavailable, "the stream of %s does not answer; try again", m.Subject)
	// The inbox may take what no trigger wants, and drops it then.
	case errors.Is(err, bus.ErrNoResponders), err == nil && stream == wire.StreamInbox && !heard:
		return wire.Errorf(wire.CodeNotFound,
			"no trigger listens to %s, and no stream keeps it; deploy a function with triggers: [{queue: {subject: %q}}]", m.Subject, m.Subject)
	case errors.Is(err, bus.ErrFull):
		return wire.Errorf(wire.CodeThrottled, "the stream of %s is full; try again later", m.Subject)
	case err != nil:
		return wire.Errorf(wire.CodeUnavailable, "the event could not be stored: %s", err)
	}
	return nil
}

// isHeard reports whether a trigger has the inbox keep a subject for it.
func (g *Gateway) isHeard(subject string) bool {
	live, _ := g.cache.Triggered()
	return slices.ContainsFunc(live, func(v functions.Version) bool {
		return slices.ContainsFunc(v.Spec.Triggers, func(t functions.Trigger) bool {
			return t.Queue != nil && t.Queue.Stream == "" && wire.Covers(t.Queue.Subject, subject)
		})
	})
}

// notifyBucket hands what an S3 server tells to the triggers that watch the buckets.
func (g *Gateway) notifyBucket(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	records, err := s3event.Parse(body)
	if err != nil {
		return wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	accepted := 0
	for _, record := range records {
		if record.Bucket == g.deps.Sources.OwnBucket() {
			continue
		}
		document, err := s3event.Document([]s3event.Record{record})
		if err != nil {
			return wire.AsError(err)
		}
		watched, err := sources.Notify(r.Context(), g.deps.Conn, record.Bucket, document)
		if err != nil {
			return wire.Errorf(wire.CodeUnavailable, "the notification could not be stored: %s", err)
		}
		if watched {
			accepted++
		}
	}
	return writeJSON(w, http.StatusAccepted, published{accepted})
}

// triggersOf are the triggers of a function's live version.
func (g *Gateway) triggersOf(f wire.FunctionID) []functions.Trigger {
	_, v, err := g.cache.Resolve(wire.Ref{FunctionID: f, Qualifier: wire.LiveAlias}, functions.MainDraw)
	if err != nil { // it is not deployed
		return nil
	}
	return v.Spec.Triggers
}

// prune removes what a function's triggers listened to before and these do not. What it
// cannot remove now, the events workers do later.
func (g *Gateway) prune(ctx context.Context, f wire.FunctionID, before, triggers []functions.Trigger) {
	if len(before) == 0 {
		return
	}
	if err := g.deps.Sources.Prune(ctx, f, triggers); err != nil {
		g.log.Warn("triggers left behind", telemetry.KeyFunction, f.String(), telemetry.KeyError, err)
	}
}
