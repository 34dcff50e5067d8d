// Package s3event reads and writes the notifications by which S3 servers tell what
// happened in a bucket.
package s3event

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// MaxRecords bounds the happenings in one document.
const MaxRecords = 1000

// Record is one happening in a bucket.
type Record struct {
	// Event is its name in S3, without "s3:" ahead: ObjectCreated:Put.
	Event  string
	Bucket string
	// Key is the object's key, decoded.
	Key string
	// JSON is the record as it came.
	JSON json.RawMessage
}

// record is the part of a record that is looked at.
type record struct {
	EventName string `json:"eventName"`
	S3        struct {
		Bucket struct {
			Name string `json:"name"`
		} `json:"bucket"`
		Object struct {
			Key string `json:"key"`
		} `json:"object"`
	} `json:"s3"`
}

// Parse reads a notification of Amazon's form, which is MinIO's too. The test message
// that a server sends when it is set up has no records.
func Parse(document []byte) ([]Record, error) {
	var d struct {
		Records []json.RawMessage `json:"Records"` //nolint:tagliatelle // as AWS spells it
		// Event is how Amazon and others name their test message.
		Event string `json:"Event"` //nolint:tagliatelle // as AWS spells it
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, fmt.Errorf("this is no S3 notification: %w", err)
	}
	switch {
	case len(d.Records) == 0 && d.Event == "s3:TestEvent":
		return nil, nil
	case len(d.Records) == 0:
		return nil, errors.New(`this is no S3 notification: it has no "Records"`)
	case len(d.Records) > MaxRecords:
		return nil, fmt.Errorf("%d records are too many; at most %d may come at once", len(d.Records), MaxRecords)
	}
	records := make([]Record, len(d.Records))
	for i, raw := range d.Records {
		var r record
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, fmt.Errorf("record %d is not of S3's form: %w", i+1, err)
		}
		key, err := url.QueryUnescape(r.S3.Object.Key)
		switch {
		case err != nil:
			return nil, fmt.Errorf("record %d: the object's key %q is not well percent-encoded", i+1, r.S3.Object.Key)
		case r.EventName == "" || key == "" || !validBucket(r.S3.Bucket.Name):
			return nil, fmt.Errorf("record %d lacks eventName, s3.bucket.name or s3.object.key, or the name is of no bucket", i+1)
		}
		records[i] = Record{Event: strings.TrimPrefix(r.EventName, "s3:"), Bucket: r.S3.Bucket.Name, Key: key, JSON: raw}
	}
	return records, nil
}

// validBucket reports whether a name may be part of a subject: S3's rules, loosely.
func validBucket(name string) bool {
	if name == "" || len(name) > 63 || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// Document is a notification of some records, at least one.
func Document(records []Record) ([]byte, error) {
	raw := make([]json.RawMessage, len(records))
	for i, r := range records {
		raw[i] = r.JSON
	}
	return json.Marshal(map[string][]json.RawMessage{"Records": raw})
}

// Change is a happening that a server of ours tells of.
type Change struct {
	// Event is its name without "s3:" ahead.
	Event  string
	Region string
	Bucket string
	Key    string
	// Size is in bytes; ETag and VersionID may be empty.
	Size      int64
	ETag      string
	VersionID string
	At        time.Time
}

// Document is the notification of a change, as Amazon would write it.
func (c Change) Document() ([]byte, error) {
	type object map[string]any
	what := object{"key": encodeKey(c.Key), "sequencer": fmt.Sprintf("%016X", c.At.UnixNano())}
	if !strings.HasPrefix(c.Event, "ObjectRemoved") {
		what["size"] = c.Size
	}
	if c.ETag != "" {
		what["eTag"] = strings.Trim(c.ETag, `"`)
	}
	if c.VersionID != "" {
		what["versionId"] = c.VersionID
	}
	return json.Marshal(object{"Records": []object{{
		"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": c.Region,
		"eventTime": c.At.UTC().Format("2006-01-02T15:04:05.000Z"), "eventName": c.Event,
		"s3": object{
			"s3SchemaVersion": "1.0", "configurationId": "dayfly",
			"bucket": object{"name": c.Bucket, "arn": "arn:aws:s3:::" + c.Bucket},
			"object": what,
		},
	}}})
}

// encodeKey writes a key as S3 does in notifications.
func encodeKey(key string) string {
	return strings.ReplaceAll(url.QueryEscape(key), "%2F", "/")
}
