package functions

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/dayfly-run/dayfly/wire"
)

// Bounds of triggers, both ends included; sizes in bytes.
const (
	MaxTriggers = 20
	// DefaultBatchSize is that of a trigger that has a batch without a size; one
	// without a batch makes an event of every message.
	DefaultBatchSize   = 10
	MaxBatchSize       = 1000
	MaxBatchWindow     = 5 * time.Minute
	MaxStreamNameBytes = 64
	MaxCronPayload     = 16 << 10
	MaxObjectKeyBytes  = 1024
)

// What names look like; the JSON schema holds the same patterns.
var (
	streamPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	bucketPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

// Lengths of a bucket's name, as S3 has them.
const (
	minBucketBytes = 3
	maxBucketBytes = 63
)

// readTriggers reads what invokes the function besides HTTP, which every function
// answers, whether it says so or not.
func (r *manifestReader) readTriggers(v value) {
	triggers, ok := v.list()
	if !ok {
		return
	}
	if len(triggers) > MaxTriggers {
		v.reject("%d triggers are too many; at most %d are allowed", len(triggers), MaxTriggers)
		return
	}
	lines := map[wire.TriggerID]int{}
	for _, item := range triggers {
		entries, ok := item.entries()
		switch {
		case !ok:
			continue
		case len(entries) != 1:
			item.reject(`each item is one trigger, as in "- http: {}"; this one has %d keys`, len(entries))
			continue
		}
		var trigger Trigger
		before := len(*v.problems)
		item.readFields(entries, triggerFields(&trigger))
		if len(*v.problems) > before {
			continue // what is wrong with it is not also twice there
		}
		id := trigger.ID()
		if first, twice := lines[id]; twice {
			entries[0].reject("this trigger listens where the one on line %d does; make one of the two", first)
			continue
		}
		lines[id] = entries[0].line
		if trigger != (Trigger{}) {
			r.manifest.Spec.Triggers = append(r.manifest.Spec.Triggers, trigger)
		}
	}
}

// triggerFields is the table of every kind of trigger.
func triggerFields(t *Trigger) []field {
	return []field{
		{"http", func(v value) { v.fields(nil) }},
		{"queue", func(v value) {
			t.Queue = &QueueTrigger{Batch: BatchSpec{Size: 1}}
			readQueue(v, t.Queue)
		}},
		{"cron", func(v value) {
			t.Cron = &CronTrigger{Timezone: "UTC", Missed: MissedOnce}
			readCron(v, t.Cron)
		}},
		{"bucket", func(v value) {
			t.Bucket = &BucketTrigger{Events: []string{BucketCreated}}
			readBucket(v, t.Bucket)
		}},
	}
}

func queueFields(q *QueueTrigger) []field {
	return []field{
		{"subject", func(v value) { readSubject(v, q) }},
		{"stream", func(v value) { readStream(v, q) }},
		{"batch", func(v value) {
			q.Batch.Size = DefaultBatchSize
			v.fields(batchFields(&q.Batch))
		}},
		{"ordered", func(v value) {
			if ordered, ok := v.boolean(); ok {
				q.Ordered = ordered
			}
		}},
	}
}

func batchFields(b *BatchSpec) []field {
	return []field{
		{"size", func(v value) {
			var n int64
			if readQuantity(v, parseWhole, formatWhole, 1, MaxBatchSize, &n) {
				b.Size = int(n)
			}
		}},
		{"window", func(v value) {
			var window time.Duration
			if readQuantity(v, parseDuration, formatDuration, 0, MaxBatchWindow, &window) {
				b.WindowMillis = window.Milliseconds()
			}
		}},
	}
}

func readQueue(v value, q *QueueTrigger) {
	before := len(*v.problems)
	v.fields(queueFields(q))
	if len(*v.problems) > before {
		return
	}
	first, _, _ := strings.Cut(q.Subject, ".")
	switch {
	case q.Subject == "" && q.Stream == "":
		v.reject(`"subject" is missing; write the NATS subject to listen to, as in "orders.*"`)
	case first == "dayfly" || q.Stream == "" && (strings.HasPrefix(first, "$") || first == "_INBOX"):
		v.reject("subject %s belongs to the system; listen to one of your own", shown(q.Subject))
	case q.Stream == "" && (first == "*" || first == ">"):
		v.reject("subject %s would match what belongs to the system; begin it with a name, as in \"orders.>\"", shown(q.Subject))
	case q.Ordered && q.Batch.Size > 1:
		v.reject("batches of more than 1 do not go with ordered: one message is one event there; remove one of the two")
	case q.Batch.WindowMillis > 0 && q.Batch.Size == 1:
		v.reject("a window does nothing for batches of 1; raise the size or remove the window")
	}
}

func readSubject(v value, q *QueueTrigger) {
	subject, ok := v.text()
	switch {
	case !ok:
	case !wire.ValidFilter(subject):
		v.reject("%s is not a NATS subject; write words with dots between them, * for one word, > at the end for any more, at most %d bytes",
			shown(subject), wire.MaxSubjectBytes)
	default:
		q.Subject = subject
	}
}

func readStream(v value, q *QueueTrigger) {
	stream, ok := v.text()
	switch {
	case !ok:
	case !streamPattern.MatchString(stream):
		v.reject("%s is not the name of a stream; use letters, digits, _ and -, at most %d", shown(stream), MaxStreamNameBytes)
	case strings.HasPrefix(strings.TrimPrefix(stream, "KV_"), "dayfly_"):
		v.reject("%s belongs to the system; name a stream of your own", shown(stream))
	default:
		q.Stream = stream
	}
}

func cronFields(c *CronTrigger) []field {
	return []field{
		{"schedule", func(v value) { c.Schedule, _ = v.text() }},
		{"timezone", func(v value) { c.Timezone, _ = v.text() }},
		{"missed", func(v value) {
			missed, ok := v.text()
			if ok && !slices.Contains(Missed(), missed) {
				v.reject("%s is not a choice; use %s", shown(missed), oneOf(Missed()))
			}
			c.Missed = missed
		}},
		{"payload", func(v value) { readPayload(v, c) }},
	}
}

func readCron(v value, c *CronTrigger) {
	before := len(*v.problems)
	v.fields(cronFields(c))
	if len(*v.problems) > before {
		return
	}
	if c.Schedule == "" {
		v.reject(`"schedule" is missing; %s`, scheduleHint)
		return
	}
	if _, err := ParseSchedule(c.Schedule, c.Timezone); err != nil {
		v.reject("%s", err)
	}
}

func readPayload(v value, c *CronTrigger) {
	var payload any
	err := yaml.NodeToValue(v.node, &payload)
	if err != nil {
		v.reject("this cannot be read: %s", err)
		return
	}
	data, err := json.Marshal(payload)
	switch {
	case err != nil: // infinity, or keys that are no text
		v.reject("this has no form in JSON: %s", err)
	case len(data) > MaxCronPayload:
		v.reject("the payload has %d bytes as JSON; at most %d are allowed", len(data), MaxCronPayload)
	default:
		c.Payload = data
	}
}

func bucketFields(b *BucketTrigger) []field {
	return []field{
		{"bucket", func(v value) {
			name, ok := v.text()
			if ok && (len(name) < minBucketBytes || len(name) > maxBucketBytes || !bucketPattern.MatchString(name)) {
				v.reject("%s is not the name of a bucket; use %d to %d lower-case letters, digits, hyphens and inner dots",
					shown(name), minBucketBytes, maxBucketBytes)
			}
			b.Bucket = name
		}},
		{"events", func(v value) { readBucketEvents(v, b) }},
		{"prefix", func(v value) { readKeyPart(v, &b.Prefix) }},
		{"suffix", func(v value) { readKeyPart(v, &b.Suffix) }},
	}
}

func readBucket(v value, b *BucketTrigger) {
	before := len(*v.problems)
	v.fields(bucketFields(b))
	if b.Bucket == "" && len(*v.problems) == before {
		v.reject(`"bucket" is missing; write the name of an S3 bucket`)
	}
}

func readBucketEvents(v value, b *BucketTrigger) {
	items, ok := v.list()
	if !ok {
		return
	}
	b.Events = nil
	for _, item := range items {
		event, ok := item.text()
		switch {
		case !ok:
		case !slices.Contains(BucketEvents(), event):
			item.reject("%s is not a choice; use %s", shown(event), oneOf(BucketEvents()))
		case slices.Contains(b.Events, event):
			item.reject("%s stands twice; keep one", shown(event))
		default:
			b.Events = append(b.Events, event)
		}
	}
	if len(items) == 0 {
		v.reject("an empty list would make no event at all; use %s", oneOf(BucketEvents()))
	}
}

func readKeyPart(v value, into *string) {
	text, ok := v.text()
	switch {
	case !ok:
	case len(text) > MaxObjectKeyBytes || strings.ContainsRune(text, 0):
		v.reject("this is no part of an object's key, which has at most %d bytes and no NUL", MaxObjectKeyBytes)
	default:
		*into = text
	}
}
