package triggers

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/cloudevent"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// message is how a function gets a message: as a record of Amazon's SQS.
type message struct {
	MessageID string `json:"messageId"`
	// Body is the data as text, or in base64 when it is none, as the attribute Encoding
	// says then.
	Body              string                      `json:"body"`
	Attributes        map[string]string           `json:"attributes"`
	MessageAttributes map[string]messageAttribute `json:"messageAttributes"`
	EventSource       string                      `json:"eventSource"`
	EventSourceARN    string                      `json:"eventSourceARN"` //nolint:tagliatelle // as AWS spells it
	CloudEvent        map[string]string           `json:"cloudEvent,omitempty"`
}

// messageAttribute is a header of a message.
type messageAttribute struct {
	DataType    string   `json:"dataType"`
	StringValue string   `json:"stringValue"`
	StringList  []string `json:"stringListValues,omitempty"`
}

// Names of attributes of a message.
const (
	attributeReceived = "ApproximateReceiveCount"
	attributeSent     = "SentTimestamp"
	attributeEncoding = "Encoding"
)

// messages makes an event of messages of a queue.
func (m *mover) messages(batch []*bus.Delivery) (intake.Request, bool, error) {
	records, sequences := make([]message, len(batch)), make([]string, len(batch))
	for i, d := range batch {
		sequences[i] = strconv.FormatUint(d.Sequence, 10)
		records[i] = m.record(d)
	}
	payload, err := json.Marshal(map[string][]message{"Records": records})
	if err != nil {
		return intake.Request{}, false, err
	}
	first := batch[0]
	e := m.event(wire.SourceQueue, first.StoredAt, m.source.Stream, strings.Join(sequences, ","))
	if m.trigger.Queue.Ordered {
		e.Order = key(first)
	}
	for _, d := range batch { // the longest way counts
		if cause, depth := wire.ReadCause(d.Headers()); depth > e.Depth {
			e.Cause, e.Depth = cause, depth
		}
	}
	return intake.Request{Event: e, Payload: payload}, true, nil
}

// key is what a message of an ordered trigger must not overtake.
func key(d *bus.Delivery) string {
	if values := d.Headers()[wire.HeaderKey]; len(values) > 0 && values[0] != "" {
		return values[0]
	}
	return d.Subject
}

// record describes one message.
func (m *mover) record(d *bus.Delivery) message {
	headers, sequence := d.Headers(), strconv.FormatUint(d.Sequence, 10)
	r := message{
		MessageID: string(intake.DeriveID(d.StoredAt, "message", m.source.Stream, sequence)),
		Attributes: map[string]string{
			attributeReceived: strconv.FormatUint(max(d.Count, 1), 10),
			attributeSent:     strconv.FormatInt(d.StoredAt.UnixMilli(), 10),
			"Subject":         d.Subject, "Stream": m.source.Stream, "SequenceNumber": sequence,
		},
		MessageAttributes: map[string]messageAttribute{},
		EventSource:       "dayfly:nats",
		EventSourceARN:    "arn:dayfly:nats:::" + m.source.Stream,
	}
	if m.trigger.Queue.Ordered {
		r.Attributes["MessageGroupId"] = key(d)
	}
	body := d.Data
	if e, ok := cloudEvent(headers, body); ok {
		r.CloudEvent, body = e.Attributes, e.Data
	}
	if r.Body = string(body); !utf8.Valid(body) {
		r.Body, r.Attributes[attributeEncoding] = base64.StdEncoding.EncodeToString(body), "base64"
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		values := headers[name]
		if len(values) == 0 {
			continue
		}
		a := messageAttribute{DataType: "String", StringValue: values[0]}
		if len(values) > 1 {
			a.StringList = values
		}
		r.MessageAttributes[name] = a
	}
	return r
}

// cloudEvent reads a message that is a CloudEvent. One that only looks like it stays
// what it is: its publisher is gone, and the function may know better.
func cloudEvent(headers map[string][]string, data []byte) (cloudevent.Event, bool) {
	for name, values := range headers {
		if strings.EqualFold(name, "Content-Type") && len(values) > 0 && cloudevent.IsStructured(values[0]) {
			e, err := cloudevent.Parse(data)
			return e, err == nil
		}
	}
	e, ok, err := cloudevent.FromHeaders(headers, data)
	return e, ok && err == nil
}
