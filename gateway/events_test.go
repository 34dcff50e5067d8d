package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// listening deploys a function with triggers, past the builder.
func (w *world) listening(triggers ...functions.Trigger) {
	w.t.Helper()
	if err := w.sources.Prepare(w.t.Context(), hello, triggers); err != nil {
		w.t.Fatal(err)
	}
	spec := functions.Spec{Runtime: "python", Triggers: triggers}
	d, err := w.registry.Deploy(w.t.Context(), hello, spec, functions.Artifact{Code: wire.Digest(strings.Repeat("0a", 32))}, time.Now())
	if err == nil {
		err = w.cache.Await(w.t.Context(), d.Revision)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func onSubject(subject string) functions.Trigger {
	return functions.Trigger{Queue: &functions.QueueTrigger{Subject: subject, Batch: functions.BatchSpec{Size: 1}}}
}

func onBucket(bucket string) functions.Trigger {
	return functions.Trigger{Bucket: &functions.BucketTrigger{Bucket: bucket, Events: functions.BucketEvents()}}
}

// heard takes what a trigger of hello has.
func (w *world) heard(trigger functions.Trigger) []bus.Delivery {
	w.t.Helper()
	source := sources.ConsumerOf(hello, trigger)
	subject := strings.NewReplacer("*", "x", ">", "x").Replace(source.Subjects[0])
	return embedtest.Take(w.t, w.conn, source.Stream, source.Name, subject)
}

func ofType(kind string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Content-Type", kind) }
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

const cloudHead = `{"specversion":"1.0","source":"/shop","type":"order"`

func TestPublish(t *testing.T) {
	w := newWorld(t)
	trigger := onSubject("orders.>")
	w.listening(trigger)
	for _, test := range []struct {
		name     string
		body     string
		edit     []func(*http.Request)
		accepted int
		headers  map[string]string
		data     []string
	}{
		{"plain", "hello", []func(*http.Request){ofType("text/plain"), with("X-Other", "1"), with("Dayfly-Key", "k")}, 1,
			map[string]string{"Content-Type": "text/plain", "Dayfly-Key": "k"}, []string{"hello"}},
		{"nothing", "", nil, 1, nil, []string{""}},
		{"structured", cloudHead + `,"id":"1","partitionkey":"p","data":{"a":1}}`, []func(*http.Request){ofType("application/cloudevents+json; charset=utf-8")}, 1,
			map[string]string{
				"ce-id": "1", "ce-source": "/shop", "ce-type": "order", "ce-specversion": "1.0", "ce-partitionkey": "p", "Dayfly-Key": "p",
				"Content-Type": "application/json",
			}, []string{`{"a":1}`}},
		{"structured again", cloudHead + `,"id":"1","data":{"a":1}}`, []func(*http.Request){ofType("application/cloudevents+json")}, 1, nil, nil},
		{"batch", "[" + cloudHead + `,"id":"2"},` + cloudHead + `,"id":"3"}]`, []func(*http.Request){ofType("application/cloudevents-batch+json")}, 2, nil, []string{"", ""}},
		{"empty batch", "[]", []func(*http.Request){ofType("application/cloudevents-batch+json")}, 0, nil, nil},
		{"binary", "x", []func(*http.Request){
			with("ce-id", "4"), with("ce-source", "/shop"), with("ce-type", "order"), with("ce-specversion", "1.0"), with("ce-note", "a%20b"),
		}, 1, map[string]string{"ce-id": "4", "ce-source": "/shop", "ce-type": "order", "ce-specversion": "1.0", "ce-note": "a%20b"}, []string{"x"}},
		{"with a key", "one", []func(*http.Request){with("Idempotency-Key", "i1")}, 1, nil, []string{"one"}},
		{"with the key again", "one", []func(*http.Request){with("Idempotency-Key", "i1")}, 1, nil, nil},
	} {
		got := decode[published](t, w.ask(http.MethodPost, "/v1/events/orders.created", strings.NewReader(test.body), test.edit...), http.StatusAccepted)
		if got.Accepted != test.accepted {
			t.Errorf("%s: %d are accepted", test.name, got.Accepted)
		}
		var data []string
		for _, m := range w.heard(trigger) {
			data = append(data, string(m.Data))
			headers := map[string]string{}
			for name, values := range m.Headers() {
				headers[name] = values[0]
			}
			delete(headers, "Nats-Msg-Id")
			if diff := cmp.Diff(test.headers, headers); test.headers != nil && diff != "" {
				t.Errorf("%s: headers (-want +got):\n%s", test.name, diff)
			}
		}
		if diff := cmp.Diff(test.data, data); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestPublishRefuses(t *testing.T) {
	w := newWorld(t)
	w.listening(onSubject("orders.*.x"), onSubject("orders.eu.*"))
	for name, test := range map[string]struct {
		subject, body string
		edit          func(*http.Request)
		status        int
		code          wire.Code
		text          string
	}{
		"wildcard":      {"orders.*", "", nil, 400, wire.CodeInvalid, `"orders.*" is not a NATS subject to publish on`},
		"space":         {"orders.%20", "", nil, 400, wire.CodeInvalid, "is not a NATS subject"},
		"of the system": {"dayfly.event.a.b.c", "", nil, 400, wire.CodeInvalid, "belongs to the system"},
		"of JetStream":  {"$JS.API.INFO", "", nil, 400, wire.CodeInvalid, "belongs to the system"},
		"unknown":       {"nobody.listens", "", nil, 404, wire.CodeNotFound, `no trigger listens to nobody.listens, and no stream keeps it; deploy a function with triggers: [{queue: {subject: "nobody.listens"}}]`},
		// The inbox has one filter for both triggers, which matches this as well.
		"wanted by none": {"orders.us.y", "", nil, 404, wire.CodeNotFound, "no trigger listens to orders.us.y"},
		"no CloudEvent":  {"orders.eu.x", "{}", ofType("application/cloudevents+json"), 400, wire.CodeInvalid, `this is no CloudEvent: specversion is ""`},
		"half a one":     {"orders.eu.x", "", with("ce-id", "1"), 400, wire.CodeInvalid, "this is no CloudEvent: specversion"},
		"no batch":       {"orders.eu.x", "{}", ofType("application/cloudevents-batch+json"), 400, wire.CodeInvalid, "this is no JSON list"},
		"not in JSON":    {"orders.eu.x", "<x/>", ofType("application/cloudevents+xml"), 400, wire.CodeInvalid, "are not understood; send application/cloudevents+json"},
		"too large":      {"orders.eu.x", strings.Repeat("x", 1<<20), nil, 413, wire.CodeTooLarge, "put large data into S3"},
		"much too large": {"orders.eu.x", strings.Repeat("x", 7<<20), nil, 413, wire.CodeTooLarge, "over 6291456 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			edit := test.edit
			if edit == nil {
				edit = func(*http.Request) {}
			}
			wantProblem(t, w.ask(http.MethodPost, "/v1/events/"+test.subject, strings.NewReader(test.body), edit), test.status, test.code, test.text)
		})
	}
	if got := w.ask(http.MethodPost, "/v1/events/orders.eu.y", strings.NewReader("x")); got.Code != http.StatusAccepted {
		t.Errorf("what is wanted: %d %s", got.Code, got.Body)
	}
}

// TestTheCloudEventsSDK sends what CloudEvents' own client makes.
func TestTheCloudEventsSDK(t *testing.T) {
	w := newWorld(t)
	trigger := onSubject("orders.*")
	w.listening(trigger)
	server := httptest.NewServer(w.Handler())
	defer server.Close()
	client, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(server.URL + "/v1/events/orders.created"))
	if err != nil {
		t.Fatal(err)
	}
	event := cloudevents.NewEvent()
	event.SetSource("/shop")
	event.SetType("order.created")
	event.SetSubject("a b")
	event.SetTime(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))
	event.SetExtension("number", 7)
	if err := event.SetData(cloudevents.ApplicationJSON, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	for id, mode := range map[string]func(context.Context) context.Context{
		"binary": cloudevents.WithEncodingBinary, "structured": cloudevents.WithEncodingStructured,
	} {
		event.SetID(id)
		if result := client.Send(mode(t.Context()), event); !cloudevents.IsACK(result) {
			t.Errorf("%s: %v", id, result)
		}
	}
	got := map[string]bus.Delivery{}
	for _, m := range w.heard(trigger) {
		got[m.Headers()["ce-id"][0]] = m
	}
	if ids := slices.Sorted(maps.Keys(got)); !slices.Equal(ids, []string{"binary", "structured"}) {
		t.Fatalf("%q came", ids)
	}
	for id, m := range got {
		headers := m.Headers()
		for name, want := range map[string]string{
			"ce-source": "/shop", "ce-type": "order.created", "ce-subject": "a%20b", "ce-time": "2026-05-01T12:00:00Z", "ce-number": "7", "Content-Type": "application/json",
		} {
			if values := headers[name]; len(values) != 1 || values[0] != want {
				t.Errorf("%s: %s is %q, want %q", id, name, values, want)
			}
		}
		if string(m.Data) != `{"a":1}` {
			t.Errorf("%s: %s", id, m.Data)
		}
	}
}

func TestBucketNotifications(t *testing.T) {
	w := newWorld(t)
	trigger := onBucket("uploads")
	w.listening(trigger)
	record := func(bucket string) string {
		return `{"eventName":"s3:ObjectCreated:Put","s3":{"bucket":{"name":"` + bucket + `"},"object":{"key":"in%2Fa"}}}`
	}
	for document, want := range map[string]int{
		`{"EventName":"s3:ObjectCreated:Put","Records":[` + record("uploads") + "," + record("unwatched") + "," + record("dayfly") + "," + record("uploads") + `]}`: 2,
		`{"Service":"Amazon S3","Event":"s3:TestEvent"}`: 0,
	} {
		got := decode[published](t, w.ask(http.MethodPost, "/v1/buckets/notifications", strings.NewReader(document)), http.StatusAccepted)
		if got.Accepted != want {
			t.Errorf("%s: %d", document, got.Accepted)
		}
	}
	for _, m := range w.heard(trigger) {
		var d struct {
			Records []json.RawMessage `json:"Records"`
		}
		if err := json.Unmarshal(m.Data, &d); err != nil || len(d.Records) != 1 || !bytes.Equal(d.Records[0], []byte(record("uploads"))) {
			t.Errorf("%s, %v", m.Data, err)
		}
	}
	wantProblem(t, w.ask(http.MethodPost, "/v1/buckets/notifications", strings.NewReader("{}")), 400, wire.CodeInvalid, `it has no "Records"`)
}

// TestTriggersOfADeploy: they work when the deploy answers, go with the next one, and a
// deploy whose triggers cannot be changes nothing.
func TestTriggersOfADeploy(t *testing.T) {
	w := newWorld(t)
	manifest := ""
	w.builder(func(wire.BuildRequest) wire.BuildReply {
		return wire.BuildReply{Manifest: []byte("name: hello\nruntime: provided\n" + manifest), Code: wire.Digest(strings.Repeat("0a", 32)), CodeBytes: 1}
	})
	w.starting(startsAlways)
	deploy := func() *httptest.ResponseRecorder {
		return w.ask(http.MethodPost, "/v1/functions", strings.NewReader("bundle"))
	}
	publish := func(subject string) int {
		return w.ask(http.MethodPost, "/v1/events/"+subject, strings.NewReader("x")).Code
	}
	manifest = "triggers: [{queue: {subject: a}}]\n"
	if got := deploy(); got.Code != http.StatusCreated || publish("a") != http.StatusAccepted {
		t.Errorf("first deploy: %d %s", got.Code, got.Body)
	}
	manifest = "triggers: [{queue: {subject: b}}]\n"
	if got := deploy(); got.Code != http.StatusCreated || publish("a") != http.StatusNotFound || publish("b") != http.StatusAccepted {
		t.Errorf("second deploy: %d %s", got.Code, got.Body)
	}
	manifest = "triggers: [{queue: {stream: MISSING}}, {queue: {subject: c}}]\n"
	wantProblem(t, deploy(), 400, wire.CodeInvalid, "there is no JetStream stream MISSING")
	manifest = "triggers: [{bucket: {bucket: dayfly}}]\n"
	wantProblem(t, deploy(), 400, wire.CodeInvalid, "where Dayfly keeps its own objects")
	if publish("b") != http.StatusAccepted {
		t.Error("a deploy that failed took the triggers away")
	}
	if _, v, err := w.cache.Resolve(wire.Ref{FunctionID: hello, Qualifier: wire.LiveAlias}, functions.MainDraw); err != nil || v.Number != 2 {
		t.Errorf("live is %v, %v", v.VersionID, err)
	}
	if got := w.ask(http.MethodDelete, "/v1/functions/hello", nil); got.Code != http.StatusNoContent || publish("b") != http.StatusNotFound {
		t.Errorf("delete: %d %s", got.Code, got.Body)
	}
}
