package functions

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestTriggersAreRead(t *testing.T) {
	const text = valid + `triggers:
  - http: {}
  - queue: {subject: "orders.*"}
  - queue: {subject: "users.>", batch: {size: 25, window: 2s}}
  - queue: {stream: ORDERS, subject: "orders.*.paid", batch: {}}
  - queue: {stream: CHANGES, ordered: true}
  - queue: {stream: KV_settings, subject: "$KV.settings.>"}
  - cron: {schedule: "*/5 * * * *"}
  - cron:
      schedule: "30 0 9 * * MON-FRI"
      timezone: Asia/Tokyo
      missed: skip
      payload: {report: daily, pages: [1, 2.5, true, null]}
  - bucket: {bucket: uploads}
  - bucket: {bucket: my.uploads, events: [removed, created], prefix: in/, suffix: .png}
`
	got, err := ParseManifest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Trigger{
		{Queue: &QueueTrigger{Subject: "orders.*", Batch: BatchSpec{Size: 1}}},
		{Queue: &QueueTrigger{Subject: "users.>", Batch: BatchSpec{Size: 25, WindowMillis: 2000}}},
		{Queue: &QueueTrigger{Stream: "ORDERS", Subject: "orders.*.paid", Batch: BatchSpec{Size: 10}}},
		{Queue: &QueueTrigger{Stream: "CHANGES", Batch: BatchSpec{Size: 1}, Ordered: true}},
		{Queue: &QueueTrigger{Stream: "KV_settings", Subject: "$KV.settings.>", Batch: BatchSpec{Size: 1}}},
		{Cron: &CronTrigger{Schedule: "*/5 * * * *", Timezone: "UTC", Missed: MissedOnce}},
		{Cron: &CronTrigger{
			Schedule: "30 0 9 * * MON-FRI", Timezone: "Asia/Tokyo", Missed: MissedSkip,
			Payload: json.RawMessage(`{"pages":[1,2.5,true,null],"report":"daily"}`),
		}},
		{Bucket: &BucketTrigger{Bucket: "uploads", Events: []string{BucketCreated}}},
		{Bucket: &BucketTrigger{Bucket: "my.uploads", Events: []string{BucketRemoved, BucketCreated}, Prefix: "in/", Suffix: ".png"}},
	}
	if diff := cmp.Diff(want, got.Spec.Triggers); diff != "" {
		t.Error(diff)
	}
	var lines []string
	for _, trigger := range want {
		lines = append(lines, trigger.String())
	}
	wantLines := []string{
		"queue orders.*", "queue users.>", "queue stream ORDERS orders.*.paid", "queue stream CHANGES", "queue stream KV_settings $KV.settings.>",
		"cron */5 * * * * UTC", "cron 30 0 9 * * MON-FRI Asia/Tokyo", "bucket uploads/* created", "bucket my.uploads/in/*.png removed, created",
	}
	if diff := cmp.Diff(wantLines, lines); diff != "" {
		t.Error(diff)
	}
	ids := map[wire.TriggerID]bool{}
	for _, trigger := range want {
		ids[trigger.ID()] = true
	}
	if len(ids) != len(want) {
		t.Errorf("%d triggers have %d IDs", len(want), len(ids))
	}
}

func TestTriggersAreRefused(t *testing.T) {
	for item, want := range map[string]string{
		`queue: {}`:                                         `triggers.queue: "subject" is missing; write the NATS subject to listen to, as in "orders.*"`,
		`queue: {subject: "a b"}`:                           `triggers.queue.subject: "a b" is not a NATS subject; write words with dots between them`,
		`queue: {subject: "a..b"}`:                          `"a..b" is not a NATS subject`,
		`queue: {subject: "a.>.b"}`:                         `"a.>.b" is not a NATS subject`,
		`queue: {subject: ""}`:                              `"" is not a NATS subject`,
		`queue: {subject: 7}`:                               `triggers.queue.subject: 7 is a number, text is needed`,
		`queue: {subject: "dayfly.event.>"}`:                `triggers.queue: subject "dayfly.event.>" belongs to the system; listen to one of your own`,
		`queue: {subject: "$JS.API.>"}`:                     `belongs to the system`,
		`queue: {subject: "_INBOX.>"}`:                      `belongs to the system`,
		`queue: {subject: ">"}`:                             `would match what belongs to the system; begin it with a name`,
		`queue: {subject: "*.created"}`:                     `would match what belongs to the system`,
		`queue: {stream: "a.b"}`:                            `triggers.queue.stream: "a.b" is not the name of a stream; use letters, digits, _ and -, at most 64`,
		`queue: {stream: dayfly_events}`:                    `dayfly_events" belongs to the system`,
		`queue: {stream: KV_dayfly_functions}`:              `belongs to the system`,
		`queue: {stream: S, subject: dayfly.x}`:             `belongs to the system`,
		`queue: {subject: a, batch: {size: 0}}`:             `triggers.queue.batch.size: "0" is out of bounds; 1 to 1000 are allowed`,
		`queue: {subject: a, batch: {size: 1001}}`:          `"1001" is out of bounds`,
		`queue: {subject: a, batch: {window: 1h}}`:          `triggers.queue.batch.window: "1h" is not a duration`,
		`queue: {subject: a, batch: {window: 6m}}`:          `"6m" is out of bounds; 0s to 5m are allowed`,
		`queue: {subject: a, batch: {size: 1, window: 1s}}`: `a window does nothing for batches of 1`,
		`queue: {subject: a, batch: {}, ordered: true}`:     `batches of more than 1 do not go with ordered`,
		`queue: {subject: a, ordered: maybe}`:               `text stands where true or false is needed`,
		`queue: {subjects: a}`:                              `unknown key "subjects" in triggers.queue; did you mean "subject"?`,
		`cron: {}`:                                          `triggers.cron: "schedule" is missing; write five fields`,
		`cron: {schedule: "* * * *"}`:                       `triggers.cron: schedule "* * * *" has 4 fields; write five fields, minute hour day month weekday, as in "*/5 * * * *", or six with seconds first`,
		`cron: {schedule: "61 * * * *"}`:                    `schedule "61 * * * *": end of range (61) above maximum (59)`,
		`cron: {schedule: "x * * * *"}`:                     `schedule "x * * * *": failed to parse int`,
		`cron: {schedule: "*/0 * * * *"}`:                   `schedule "*/0 * * * *"`,
		`cron: {schedule: "0 0 30 2 *"}`:                    `schedule "0 0 30 2 *" never comes: no month has such a day`,
		`cron: {schedule: "@every 5s"}`:                     `schedule "@every 5s" is not known; use @hourly`,
		`cron: {schedule: "TZ=UTC * * * * *"}`:              `the time zone has a key of its own, timezone`,
		`cron: {schedule: "@daily", timezone: Mars}`:        `timezone "Mars" is not known; use a name such as Asia/Tokyo or UTC`,
		`cron: {schedule: "@daily", timezone: Local}`:       `timezone "Local" is another one on every machine`,
		`cron: {schedule: "@daily", missed: always}`:        `triggers.cron.missed: "always" is not a choice; use once or skip`,
		`cron: {schedule: "@daily", payload: .inf}`:         `triggers.cron.payload: this has no form in JSON`,
		`cron: {schedule: "@daily", payload: "` + strings.Repeat("x", MaxCronPayload) + `"}`: `the payload has 16386 bytes as JSON; at most 16384 are allowed`,
		`bucket: {}`:                                            `triggers.bucket: "bucket" is missing; write the name of an S3 bucket`,
		`bucket: {bucket: Up}`:                                  `triggers.bucket.bucket: "Up" is not the name of a bucket; use 3 to 63 lower-case letters`,
		`bucket: {bucket: a..b}`:                                `is not the name of a bucket`,
		`bucket: {bucket: ab-}`:                                 `is not the name of a bucket`,
		`bucket: {bucket: uploads, events: []}`:                 `triggers.bucket.events: an empty list would make no event at all; use created or removed`,
		`bucket: {bucket: uploads, events: [create]}`:           `"create" is not a choice; use created or removed`,
		`bucket: {bucket: uploads, events: [created, created]}`: `"created" stands twice; keep one`,
		`bucket: {bucket: uploads, events: created}`:            `text stands where a list is needed`,
		`bucket: {bucket: uploads, prefix: "\0"}`:               `this is no part of an object's key`,
	} {
		_, err := ParseManifest([]byte(valid + "triggers:\n  - " + item + "\n"))
		if !wire.HasCode(err, wire.CodeInvalid) {
			t.Errorf("%s: %v", item, err)
			continue
		}
		message := wire.AsError(err).Message
		if !strings.HasPrefix(message, "dayfly.yaml:5: ") || !strings.Contains(message, want) || strings.Contains(message, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", item, message, want)
		}
	}
}

func TestTriggersOfOnePlaceAreRefused(t *testing.T) {
	for _, pair := range [][2]string{
		{`queue: {subject: a}`, `queue: {subject: a, batch: {size: 3}}`},
		{`cron: {schedule: "@daily"}`, `cron: {schedule: "@daily", missed: skip}`},
		{`bucket: {bucket: uploads}`, `bucket: {bucket: uploads, events: [removed]}`},
	} {
		_, err := ParseManifest([]byte(valid + "triggers:\n  - " + pair[0] + "\n  - " + pair[1] + "\n"))
		if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "dayfly.yaml:6") || !strings.Contains(err.Error(), "the one on line 5") {
			t.Errorf("%s: %v", pair, err)
		}
	}
	many := valid + "triggers:\n" + strings.Repeat("  - http: {}\n", MaxTriggers+1)
	if _, err := ParseManifest([]byte(many)); !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), "21 triggers are too many") {
		t.Errorf("%v", err)
	}
}

// TestTriggerIDIsOfThePlace: what does not say where to listen does not change it.
func TestTriggerIDIsOfThePlace(t *testing.T) {
	a := Trigger{Queue: &QueueTrigger{Subject: "a", Batch: BatchSpec{Size: 1}}}
	b := Trigger{Queue: &QueueTrigger{Subject: "a", Batch: BatchSpec{Size: 9}, Ordered: true}}
	c := Trigger{Queue: &QueueTrigger{Stream: "a", Batch: BatchSpec{Size: 1}}}
	if a.ID() != b.ID() || a.ID() == c.ID() || len(a.ID()) != 2*triggerIDBytes {
		t.Error(a.ID(), b.ID(), c.ID())
	}
	// Deployed consumers are found again by it, whatever the release.
	if a.ID() != "7550e57cec31a65f" {
		t.Errorf("it has become %s", a.ID())
	}
}

func TestBucketTriggerWants(t *testing.T) {
	b := BucketTrigger{Bucket: "x", Events: []string{BucketCreated}, Prefix: "in/", Suffix: ".png"}
	for _, test := range []struct {
		event, key string
		want       bool
	}{
		{"s3:ObjectCreated:Put", "in/a.png", true},
		{"ObjectCreated:CompleteMultipartUpload", "in/a/b.png", true},
		{"s3:ObjectRemoved:Delete", "in/a.png", false},
		{"s3:ObjectCreated:Put", "out/a.png", false},
		{"s3:ObjectCreated:Put", "in/a.jpg", false},
		{"s3:TestEvent", "in/a.png", false},
		{"", "in/a.png", false},
	} {
		if got := b.Wants(test.event, test.key); got != test.want {
			t.Errorf("%s %s: %t", test.event, test.key, got)
		}
	}
	b = BucketTrigger{Events: slices.Clone(BucketEvents())}
	if !b.Wants("s3:ObjectRemoved:DeleteObjects", "any") {
		t.Error("a removed object is not wanted")
	}
}
