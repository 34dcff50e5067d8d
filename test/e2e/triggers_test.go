package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/nats-io/nats.go"

	"github.com/dayfly-run/dayfly/wire"
)

// collector prints every event that it gets, and fails at the messages that say so when
// they come for the first time.
const collector = `import json

def handler(event, context):
    print("GOT " + json.dumps(event))
    failed = []
    for r in event.get("Records", []):
        if r.get("body") == "fail once" and r["attributes"]["ApproximateReceiveCount"] == "1":
            failed.append({"itemIdentifier": r["messageId"]})
    return {"batchItemFailures": failed}
`

// collected is what the tests look at of an event.
type collected struct {
	Source  string    `json:"source"`
	Time    time.Time `json:"time"`
	Detail  any       `json:"detail"`
	Records []struct {
		Body        string
		EventName   string
		EventSource string
		Attributes  map[string]string
		CloudEvent  map[string]string
		S3          struct {
			Object struct{ Key string }
		}
	}
}

// collected reads what a function printed.
func (p *platform) collected(t testing.TB, name string) (all []collected) {
	t.Helper()
	a := p.do(t, http.MethodGet, "/v1/functions/"+name+"/logs?tail=10000", nil).want(t, http.StatusOK)
	for line := range strings.SplitSeq(strings.TrimSpace(string(a.body)), "\n") {
		var entry wire.LogEntry
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		for text := range strings.SplitSeq(entry.Text, "\n") {
			document, ok := strings.CutPrefix(text, "GOT ")
			if !ok {
				continue
			}
			var c collected
			if err := json.Unmarshal([]byte(document), &c); err != nil {
				t.Fatalf("%s: %v", document, err)
			}
			all = append(all, c)
		}
	}
	return all
}

// TestTriggers: clients that nobody here wrote, each at its door.
func TestTriggers(t *testing.T) {
	t.Parallel()
	atNATS, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	atS3, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p := private(t, "up", options{flags: []string{"--nats-listen", atNATS, "--s3-listen", atS3}})
	world.sawAddress(atNATS)
	world.sawAddress(atS3)
	p.deploy(t, files{"app.py": collector, "dayfly.yaml": `name: collect
runtime: python
handler: app.handler
retry: {delay: 100ms}
triggers:
  - http: {}
  - queue: {subject: "shop.>"}
  - queue: {subject: "batch", batch: {size: 3, window: 1m}}
  - cron: {schedule: "* * * * * *", timezone: Asia/Tokyo, payload: {n: 7}}
  - bucket: {bucket: e2e-uploads, events: [created, removed], prefix: in/}
`})
	p.publishAll(t, atNATS)
	p.uploadAll(t, atS3)
	wanted := []string{
		"message core", "message stored", "message from the CLI", `message {"a":1} of 1`, `message {"a":1} of 2`,
		"message one", "message fail once", "message fail once again", "message three",
		"object ObjectCreated:Put in/cat.png", "object ObjectRemoved:Delete in/cat.png", "tick",
	}
	eventually(t, patience, func() error {
		got := p.summary(t, "collect")
		for _, want := range wanted {
			if !slices.Contains(got, want) {
				return fmt.Errorf("no %q in %q", want, got)
			}
		}
		return nil
	})
	for _, line := range p.summary(t, "collect") {
		if !slices.Contains(wanted, line) {
			t.Errorf("nobody asked for %q", line)
		}
	}
	p.cli(t, "describe", "collect").wantExit(t, 0, "queue shop.>", "cron * * * * * * Asia/Tokyo", "bucket e2e-uploads/in/* created, removed")

	p.deploy(t, files{"app.py": collector, "dayfly.yaml": "name: collect\nruntime: python\nhandler: app.handler\n"})
	p.do(t, http.MethodPost, "/v1/events/shop.created", []byte("x")).wantProblem(t, http.StatusNotFound, wire.CodeNotFound, "no trigger listens to shop.created")
	p.cli(t, "publish", "shop.created", "--data", "x").wantExit(t, 3, "no trigger listens to shop.created")
}

// summary says in a line each what a function got.
func (p *platform) summary(t testing.TB, name string) (lines []string) {
	t.Helper()
	for _, c := range p.collected(t, name) {
		if c.Source == "dayfly.cron" {
			line := "tick"
			if late := time.Since(c.Time); late < 0 || late > 2*time.Minute || fmt.Sprint(c.Detail) != "map[n:7]" {
				line = fmt.Sprintf("a tick of %s with %v", c.Time, c.Detail)
			}
			lines = append(lines, line)
		}
		for _, r := range c.Records {
			switch {
			case r.EventSource == "aws:s3":
				lines = append(lines, "object "+r.EventName+" "+r.S3.Object.Key)
			case r.CloudEvent != nil:
				lines = append(lines, "message "+r.Body+" of "+r.CloudEvent["id"])
			case r.Attributes["ApproximateReceiveCount"] == "2":
				lines = append(lines, "message "+r.Body+" again")
			default:
				lines = append(lines, "message "+r.Body)
			}
		}
	}
	return lines
}

// publishAll publishes with the client of NATS, with that of CloudEvents and with ours.
func (p *platform) publishAll(t *testing.T, atNATS string) {
	t.Helper()
	conn, err := nats.Connect("nats://" + atNATS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish("shop.created", []byte("core")); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish("shop.created.eu", []byte("stored")); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"one", "fail once", "three"} {
		if err := conn.Publish("batch", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	p.cli(t, "publish", "shop.cli", "--data", "from the CLI").wantExit(t, 0, "published 1 message on shop.cli")
	client, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(p.url + "/v1/events/shop.cloud"))
	if err != nil {
		t.Fatal(err)
	}
	event := cloudevents.NewEvent()
	event.SetSource("/e2e")
	event.SetType("order")
	if err := event.SetData(cloudevents.ApplicationJSON, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	for id, mode := range map[string]func(context.Context) context.Context{
		"1": cloudevents.WithEncodingBinary, "2": cloudevents.WithEncodingStructured,
	} {
		event.SetID(id)
		if result := client.Send(mode(t.Context()), event); !cloudevents.IsACK(result) {
			t.Errorf("%s: %v", id, result)
		}
	}
}

// uploadAll uses the embedded S3 with Amazon's client.
func (p *platform) uploadAll(t *testing.T, atS3 string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "data", "s3", "credentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ AccessKey, SecretKey string }
	if err := json.Unmarshal(data, &keys); err != nil {
		t.Fatal(err)
	}
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + atS3), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(keys.AccessKey, keys.SecretKey, ""),
	})
	bucket := aws.String("e2e-uploads")
	for _, key := range []string{"in/cat.png", "out/cat.png"} {
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: aws.String(key), Body: strings.NewReader("meow")}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: bucket, Key: aws.String(key)}); err != nil {
			t.Fatal(err)
		}
	}
}
