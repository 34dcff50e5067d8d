package client

import (
	"bytes"
	"context"
	"net/http"

	"github.com/dayfly-run/dayfly/wire"
)

// Message is what [Client.Publish] sends.
type Message struct {
	Data []byte
	// ContentType is "application/octet-stream" when it is empty. That of CloudEvents in
	// JSON makes an event, or each of a batch, a message of its own.
	ContentType string
	// Key names what the message must not overtake, for triggers that are ordered; empty
	// for the subject.
	Key string
	// Once tells a repeat of the message, which is dropped; empty for none.
	Once string
}

// Publish puts a message into the stream that keeps a NATS subject, and returns how many
// messages it made once they are on disk. A subject that no trigger and no stream wants
// is not_found.
func (c *Client) Publish(ctx context.Context, subject string, m Message) (accepted int, err error) {
	if !wire.ValidSubject(subject) {
		return 0, wire.Errorf(wire.CodeInvalid, "%q is not a subject to publish on; write words with dots between them, as in orders.created", subject)
	}
	kind := m.ContentType
	if kind == "" {
		kind = "application/octet-stream"
	}
	headers := map[string]string{}
	if m.Key != "" {
		headers[wire.HeaderKey] = m.Key
	}
	if m.Once != "" {
		headers[wire.HeaderIdempotencyKey] = m.Once
	}
	var answer struct {
		Accepted int `json:"accepted"`
	}
	err = c.call(ctx, c.timeout, request{
		method: http.MethodPost, url: c.at(nil, "v1", "events", subject),
		body: bytes.NewReader(m.Data), bytes: int64(len(m.Data)), contentType: kind, headers: headers,
	}, &answer)
	return answer.Accepted, err
}
