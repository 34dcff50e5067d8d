// Package cloudevent reads CloudEvents 1.0 as they come over HTTP and NATS: binary (in
// headers), structured (one JSON document) and batched. Inside Dayfly they travel in the
// binary way.
package cloudevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Content types of CloudEvents in JSON.
const (
	StructuredType = "application/cloudevents+json"
	BatchType      = "application/cloudevents-batch+json"
)

// prefix begins the header of an attribute, in lower case.
const prefix = "ce-"

// MaxBatch bounds the events of one batch.
const MaxBatch = 1000

// Names of attributes that mean something to Dayfly.
const (
	attributeVersion     = "specversion"
	attributeID          = "id"
	attributeSource      = "source"
	attributeType        = "type"
	attributeTime        = "time"
	attributeContentType = "datacontenttype"
)

// Event is a CloudEvent: its attributes, datacontenttype and extensions included, by
// name, and its data.
type Event struct {
	Attributes map[string]string
	Data       []byte
}

// ID names the event among those of its source.
func (e Event) ID() string { return e.Attributes[attributeID] }

// Source says whose event it is. No two different events share it and the ID.
func (e Event) Source() string { return e.Attributes[attributeSource] }

// IsStructured reports whether a content type is that of one event in JSON.
func IsStructured(contentType string) bool { return mediaType(contentType) == StructuredType }

// IsBatch reports whether a content type is that of several events in JSON.
func IsBatch(contentType string) bool { return mediaType(contentType) == BatchType }

// mediaType is a content type without its parameters.
func mediaType(contentType string) string {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return kind
}

// FromHeaders reads an event in the binary way; ok is false when no header is of one.
// Names of headers may be in any case.
func FromHeaders(headers map[string][]string, data []byte) (e Event, ok bool, err error) {
	e = Event{Attributes: map[string]string{}, Data: data}
	contentType := ""
	for name, values := range headers {
		if len(values) == 0 {
			continue
		}
		name = strings.ToLower(name)
		if name == "content-type" {
			contentType = values[0]
		}
		attribute, isOne := strings.CutPrefix(name, prefix)
		if !isOne {
			continue
		}
		value, err := url.PathUnescape(values[0])
		if err != nil || !utf8.ValidString(value) {
			return Event{}, true, fmt.Errorf("header %s: %q is not well percent-encoded", name, values[0])
		}
		e.Attributes[attribute] = value
	}
	if len(e.Attributes) == 0 {
		return Event{}, false, nil
	}
	if contentType != "" {
		e.Attributes[attributeContentType] = contentType
	}
	return e, true, e.check()
}

// Headers is the event in the binary way; its data is the body.
func (e Event) Headers() map[string]string {
	headers := make(map[string]string, len(e.Attributes))
	for name, value := range e.Attributes {
		if name == attributeContentType {
			headers["Content-Type"] = value
		} else {
			headers[prefix+name] = escape(value)
		}
	}
	return headers
}

// escape percent-encodes what a header cannot hold.
func escape(value string) string {
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Parse reads one event in JSON.
func Parse(document []byte) (Event, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(document, &fields); err != nil {
		return Event{}, fmt.Errorf("this is no JSON object: %w", err)
	}
	if fields == nil {
		return Event{}, errors.New("null is no event")
	}
	e := Event{Attributes: map[string]string{}}
	plain, hasPlain := take(fields, "data")
	encoded, hasEncoded := take(fields, "data_base64")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, ok, err := attribute(fields[name])
		if err != nil {
			return Event{}, fmt.Errorf("attribute %q: %w", name, err)
		}
		if ok {
			e.Attributes[name] = value
		}
	}
	if err := e.check(); err != nil {
		return Event{}, err
	}
	switch {
	case hasPlain && hasEncoded:
		return Event{}, errors.New("data and data_base64 exclude each other; send one")
	case hasEncoded:
		var text string
		err := json.Unmarshal(encoded, &text)
		if err == nil {
			e.Data, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil {
			return Event{}, errors.New("data_base64 is no text in base64")
		}
	case hasPlain:
		e = e.withData(plain)
	}
	return e, nil
}

// take removes a field that is there and not null.
func take(fields map[string]json.RawMessage, name string) (json.RawMessage, bool) {
	value, ok := fields[name]
	delete(fields, name)
	return value, ok && !bytes.Equal(bytes.TrimSpace(value), []byte("null"))
}

// withData takes the data of a document: JSON as it stands, text by its own type.
func (e Event) withData(value json.RawMessage) Event {
	kind, given := e.Attributes[attributeContentType]
	if !given {
		e.Attributes[attributeContentType] = "application/json"
	}
	kind = mediaType(kind)
	isJSON := !given || strings.HasSuffix(kind, "/json") || strings.HasSuffix(kind, "+json")
	var text string
	if !isJSON && json.Unmarshal(value, &text) == nil {
		e.Data = []byte(text)
	} else {
		e.Data = bytes.TrimSpace(value)
	}
	return e
}

// attribute reads an attribute's value as text; ok is false for null.
func attribute(value json.RawMessage) (text string, ok bool, err error) {
	var decoded any
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	if err := decoder.Decode(&decoded); err != nil {
		return "", false, err
	}
	switch v := decoded.(type) {
	case nil:
		return "", false, nil
	case string:
		return v, true, nil
	case bool:
		return strconv.FormatBool(v), true, nil
	case json.Number:
		if _, err := v.Int64(); err != nil {
			return "", false, fmt.Errorf("%s is no integer", v)
		}
		return v.String(), true, nil
	}
	return "", false, errors.New("it is neither text, nor a number, nor true or false")
}

// ParseBatch reads events in a JSON list.
func ParseBatch(document []byte) ([]Event, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(document, &items); err != nil {
		return nil, fmt.Errorf("this is no JSON list: %w", err)
	}
	if len(items) > MaxBatch {
		return nil, fmt.Errorf("%d events are too many; at most %d may come at once", len(items), MaxBatch)
	}
	events := make([]Event, len(items))
	for i, item := range items {
		var err error
		if events[i], err = Parse(item); err != nil {
			return nil, fmt.Errorf("event %d: %w", i+1, err)
		}
	}
	return events, nil
}

// check refuses an event that lacks what CloudEvents asks for.
func (e Event) check() error {
	if version := e.Attributes[attributeVersion]; version != "1.0" {
		return fmt.Errorf("specversion is %q; only CloudEvents \"1.0\" are understood", version)
	}
	for _, name := range []string{attributeID, attributeSource, attributeType} {
		if e.Attributes[name] == "" {
			return fmt.Errorf("attribute %q is missing or empty", name)
		}
	}
	for name, value := range e.Attributes {
		if err := checkAttribute(name, value); err != nil {
			return err
		}
	}
	if _, err := url.Parse(e.Source()); err != nil {
		return fmt.Errorf("attribute \"source\": %q is no URI reference", e.Source())
	}
	return nil
}

// checkAttribute refuses an attribute that cannot be.
func checkAttribute(name, value string) error {
	switch {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }):
		return fmt.Errorf("attribute %q: a name has lower-case letters and digits only", name)
	case !utf8.ValidString(value):
		return fmt.Errorf("attribute %q is not UTF-8", name)
	case name == attributeContentType && strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("attribute %q: %q is no content type", name, value)
	case name == attributeTime:
		if _, err := time.Parse(time.RFC3339Nano, value); err != nil {
			return fmt.Errorf("attribute \"time\": %q is not of the form 2026-05-01T12:00:00Z", value)
		}
	}
	return nil
}
