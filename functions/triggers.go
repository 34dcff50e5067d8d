package functions

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Trigger turns outside happenings into events of the function whose live version
// declares it. Exactly one of its fields is set; HTTP is not among them, as every
// function answers it.
type Trigger struct {
	Queue  *QueueTrigger  `json:"queue,omitempty"`
	Cron   *CronTrigger   `json:"cron,omitempty"`
	Bucket *BucketTrigger `json:"bucket,omitempty"`
}

// QueueTrigger takes what is published on a NATS subject.
type QueueTrigger struct {
	// Stream is a JetStream stream of the user's own that has the messages already; empty
	// to have Dayfly keep what is published on Subject from the deploy on.
	Stream string `json:"stream,omitempty"`
	// Subject is a filter with NATS' wildcards. It is empty only with a Stream, for all
	// of it.
	Subject string    `json:"subject,omitempty"`
	Batch   BatchSpec `json:"batch"`
	// Ordered runs the events of one key one after the other, in the order in which they
	// were published. The key is the header Dayfly-Key, or else the subject.
	Ordered bool `json:"ordered,omitempty"`
}

// BatchSpec says how many messages make one event: up to Size, once WindowMillis have
// passed since the first of them.
type BatchSpec struct {
	Size         int   `json:"size"`
	WindowMillis int64 `json:"windowMillis,omitempty"`
}

// Window is how long a batch waits for more messages.
func (b BatchSpec) Window() time.Duration { return time.Duration(b.WindowMillis) * time.Millisecond }

// What becomes of the ticks of a schedule that nobody could take in time.
const (
	// MissedOnce runs the latest of them, late.
	MissedOnce = "once"
	// MissedSkip drops them.
	MissedSkip = "skip"
)

// Missed lists the values of [CronTrigger].Missed, the usual one first. The caller may
// keep and change the slice.
func Missed() []string { return []string{MissedOnce, MissedSkip} }

// CronTrigger makes an event at every tick of a schedule.
type CronTrigger struct {
	// Schedule is what [ParseSchedule] reads, in the time of Timezone.
	Schedule string `json:"schedule"`
	Timezone string `json:"timezone"`
	// Missed is one of the Missed constants.
	Missed string `json:"missed"`
	// Payload is JSON that every event carries as its detail.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Happenings in a bucket.
const (
	BucketCreated = "created"
	BucketRemoved = "removed"
)

// BucketEvents lists the values of [BucketTrigger].Events. The caller may keep and change
// the slice.
func BucketEvents() []string { return []string{BucketCreated, BucketRemoved} }

// BucketTrigger makes an event of every object that appears in an S3 bucket or goes.
type BucketTrigger struct {
	Bucket string `json:"bucket"`
	// Events are BucketEvents, in no order and none twice.
	Events []string `json:"events"`
	// Prefix and Suffix are what the object's key begins and ends with.
	Prefix string `json:"prefix,omitempty"`
	Suffix string `json:"suffix,omitempty"`
}

// Wants reports whether the trigger makes an event of a happening, by its name in S3
// with or without "s3:" ahead: ObjectCreated:Put.
func (b BucketTrigger) Wants(event, key string) bool {
	event = strings.TrimPrefix(event, "s3:")
	kind := ""
	switch {
	case strings.HasPrefix(event, "ObjectCreated:"):
		kind = BucketCreated
	case strings.HasPrefix(event, "ObjectRemoved:"):
		kind = BucketRemoved
	}
	return slices.Contains(b.Events, kind) && strings.HasPrefix(key, b.Prefix) && strings.HasSuffix(key, b.Suffix)
}

// String says in one line where the trigger listens.
func (t Trigger) String() string {
	switch {
	case t.Queue != nil && t.Queue.Stream != "":
		return strings.TrimSpace("queue stream " + t.Queue.Stream + " " + t.Queue.Subject)
	case t.Queue != nil:
		return "queue " + t.Queue.Subject
	case t.Cron != nil:
		return "cron " + t.Cron.Schedule + " " + t.Cron.Timezone
	case t.Bucket != nil:
		return "bucket " + t.Bucket.Bucket + "/" + t.Bucket.Prefix + "*" + t.Bucket.Suffix + " " + strings.Join(t.Bucket.Events, ", ")
	}
	return "http"
}

// triggerIDBytes is how much of a digest tells triggers of one function apart.
const triggerIDBytes = 8

// ID tells a function's triggers apart. It is made of where the trigger listens and of
// nothing else, so that a deploy that changes the rest keeps its place there.
func (t Trigger) ID() wire.TriggerID {
	var parts []string
	switch {
	case t.Queue != nil:
		parts = []string{"queue", t.Queue.Stream, t.Queue.Subject}
	case t.Cron != nil:
		parts = []string{"cron", t.Cron.Schedule, t.Cron.Timezone}
	case t.Bucket != nil:
		parts = []string{"bucket", t.Bucket.Bucket, t.Bucket.Prefix, t.Bucket.Suffix}
	}
	digest := sha256.New()
	for _, part := range parts {
		// None of the parts has a NUL.
		_, _ = digest.Write(append([]byte(part), 0)) // a digest never fails
	}
	return wire.TriggerID(hex.EncodeToString(digest.Sum(nil)[:triggerIDBytes]))
}
