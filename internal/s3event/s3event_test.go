package s3event

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		document string
		want     []Record
	}{
		"amazon": {
			`{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"up.loads"},"object":{"key":"in/a+b%C3%A9.png","size":3}}}]}`,
			[]Record{{Event: "ObjectCreated:Put", Bucket: "up.loads", Key: "in/a bé.png"}},
		},
		"minio": {
			`{"EventName":"s3:ObjectRemoved:Delete","Key":"uploads/a%2Fb","Records":[{"eventName":"s3:ObjectRemoved:Delete","s3":{"bucket":{"name":"uploads"},"object":{"key":"a%2Fb"}}}]}`,
			[]Record{{Event: "ObjectRemoved:Delete", Bucket: "uploads", Key: "a/b"}},
		},
		"test message": {`{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"uploads"}`, nil},
	} {
		got, err := Parse([]byte(test.document))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(Record{}, "JSON")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for document, want := range map[string]string{
		``:                 "this is no S3 notification",
		`[]`:               "this is no S3 notification",
		`{}`:               `it has no "Records"`,
		`{"Records":[]}`:   `it has no "Records"`,
		`{"Records":[7]}`:  "record 1 is not of S3's form",
		`{"Records":[{}]}`: "record 1 lacks eventName",
		`{"Records":[{"eventName":"x","s3":{"bucket":{"name":"b"},"object":{"key":"%zz"}}}]}`:  `"%zz" is not well percent-encoded`,
		`{"Records":[{"eventName":"x","s3":{"bucket":{"name":"a.>"},"object":{"key":"k"}}}]}`:  "the name is of no bucket",
		`{"Records":[{"eventName":"x","s3":{"bucket":{"name":"a..b"},"object":{"key":"k"}}}]}`: "the name is of no bucket",
		`{"Records":[` + strings.Repeat("{},", MaxRecords) + `{}]}`:                            "1001 records are too many",
	} {
		if _, err := Parse([]byte(document)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v", document, err)
		}
	}
}

func TestChangeIsReadBack(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 5e6, time.UTC)
	c := Change{Event: "ObjectCreated:Put", Region: "us-east-1", Bucket: "uploads", Key: "in/a b+ü.png", Size: 3, ETag: `"abc"`, VersionID: "v1", At: at}
	document, err := c.Document()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Records":[{"awsRegion":"us-east-1","eventName":"ObjectCreated:Put","eventSource":"aws:s3","eventTime":"2026-05-01T12:00:00.005Z","eventVersion":"2.1",` +
		`"s3":{"bucket":{"arn":"arn:aws:s3:::uploads","name":"uploads"},"configurationId":"dayfly","object":{"eTag":"abc","key":"in/a+b%2B%C3%BC.png","sequencer":"18AB6F4053F5CB40","size":3,"versionId":"v1"},"s3SchemaVersion":"1.0"}}]}`
	if diff := cmp.Diff(want, string(document)); diff != "" {
		t.Error(diff)
	}
	records, err := Parse(document)
	if err != nil || len(records) != 1 || records[0].Key != c.Key || records[0].Event != c.Event || records[0].Bucket != c.Bucket {
		t.Errorf("%+v, %v", records, err)
	}
	c.Event = "ObjectRemoved:Delete"
	if document, err = c.Document(); err != nil || strings.Contains(string(document), "size") {
		t.Errorf("%s, %v", document, err)
	}
}

// FuzzParse: what is read is written whole, and read again the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"a+b"}}},{"eventName":"s3:x","s3":{"bucket":{"name":"a.b"},"object":{"key":"%41"}}}]}`))
	f.Add([]byte(`{"Event":"s3:TestEvent"}`))
	f.Add([]byte(`{"Records":[{}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		records, err := Parse(document)
		if err != nil || len(records) == 0 {
			return
		}
		written, err := Document(records)
		if err != nil || !json.Valid(written) {
			t.Fatalf("%q: %v", document, err)
		}
		again, err := Parse(written)
		if err != nil {
			t.Fatalf("%q: %v", written, err)
		}
		if diff := cmp.Diff(records, again, cmpopts.IgnoreFields(Record{}, "JSON")); diff != "" {
			t.Fatalf("%q: %s", document, diff)
		}
	})
}
