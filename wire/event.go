package wire

import (
	"hash/fnv"
	"strconv"
	"strings"
	"time"
)

// Event heads the frame of an accepted event: one that is on disk and will be run,
// or end among the dead letters. The frame's body is the event's payload, or empty
// when PayloadKey says where that is.
type Event struct {
	Invocation InvocationID `json:"invocation"`
	// Ref is whom it is for, as [ParseRef] reads it; an alias is resolved anew at
	// every attempt.
	Ref        string    `json:"ref"`
	Source     Source    `json:"source"`
	AcceptedAt time.Time `json:"acceptedAt"`
	PayloadKey string    `json:"payloadKey,omitempty"`
	// PayloadBytes is the payload's size, wherever it is.
	PayloadBytes int64 `json:"payloadBytes"`
	// NotBefore delays the first attempt.
	NotBefore time.Time `json:"notBefore,omitzero"`
	// Cause is the invocation that this event came of, and Depth how many such steps
	// lie behind it; see [MaxEventDepth].
	Cause InvocationID `json:"cause,omitempty"`
	Depth int          `json:"depth,omitempty"`
	// Attempts are those made before the event was put here again.
	Attempts []Attempt `json:"attempts,omitempty"`
	// Redrives counts how often it came back from the dead letters.
	Redrives int `json:"redrives,omitempty"`
	// Order is the key of an event that must not overtake, nor run beside, an earlier
	// one of the same function and key; see [EventQueue]. Empty for no order.
	Order string `json:"order,omitempty"`
}

// EventQueue is where accepted events of a function wait, each queue with a consumer
// of its own. Events without [Event].Order wait in partition 0 and run in any order.
// The others are spread by their key over partitions 1 to [EventPartitions], each of
// which runs one event after the other.
type EventQueue struct {
	FunctionID
	Partition int `json:"partition,omitempty"`
}

// Queue is where the event of a function waits.
func (e Event) Queue(f FunctionID) EventQueue {
	q := EventQueue{FunctionID: f}
	if e.Order != "" {
		h := fnv.New32a()
		_, _ = h.Write([]byte(e.Order)) // it never fails
		q.Partition = 1 + int(h.Sum32()%EventPartitions)
	}
	return q
}

// token names the queue in a subject or consumer. No name of a function has an
// underscore, so that no two queues share one.
func (q EventQueue) token() string {
	if q.Partition == 0 {
		return q.Name
	}
	return q.Name + "_" + strconv.Itoa(q.Partition)
}

// Subject holds one event of the queue until it is done; [AnyEventSubject] and
// [AllEvents] match it.
func (q EventQueue) Subject(id InvocationID) string {
	return "dayfly.event." + q.Namespace + "." + q.token() + "." + string(id)
}

// Events matches all events of the queue, and of no other.
func (q EventQueue) Events() string { return "dayfly.event." + q.Namespace + "." + q.token() + ".*" }

// Consumer names the queue's consumer in [StreamEvents].
func (q EventQueue) Consumer() string { return "events_" + q.Namespace + "_" + q.token() }

// ParseEventQueue reverses [EventQueue.Consumer].
func ParseEventQueue(consumer string) (q EventQueue, ok bool) {
	rest, ours := strings.CutPrefix(consumer, "events_")
	namespace, token, both := strings.Cut(rest, "_")
	q, ok = parseEventQueue(namespace, token)
	return q, ok && ours && both
}

// EventQueueOf tells whose event a subject holds; it reverses [EventQueue.Subject].
func EventQueueOf(subject string) (q EventQueue, ok bool) {
	rest, ours := strings.CutPrefix(subject, "dayfly.event.")
	namespace, rest, _ := strings.Cut(rest, ".")
	token, id, both := strings.Cut(rest, ".")
	q, ok = parseEventQueue(namespace, token)
	return q, ok && ours && both && id != "" && !strings.Contains(id, ".")
}

func parseEventQueue(namespace, token string) (q EventQueue, ok bool) {
	name, partition, ordered := strings.Cut(token, "_")
	q = EventQueue{FunctionID: FunctionID{Namespace: namespace, Name: name}}
	if ordered {
		n, err := strconv.Atoi(partition)
		if err != nil || n < 1 || n > EventPartitions {
			return EventQueue{}, false
		}
		q.Partition = n
	}
	// Only the spelling that the queue has: 01 would be a second name for 1.
	ok = ValidName(namespace) && ValidName(name) && q.token() == token
	return q, ok
}

// Source says what kind of happening made an event.
type Source string

// Sources of events.
const (
	SourceHTTP   Source = "http"
	SourceQueue  Source = "queue"
	SourceCron   Source = "cron"
	SourceBucket Source = "bucket"
	// SourceFunction is the end of another invocation, see destinations.
	SourceFunction Source = "function"
)

// Attempt is one run of an event, or one try to run it.
type Attempt struct {
	Version    VersionID  `json:"version"`
	Node       NodeID     `json:"node,omitempty"`
	Instance   InstanceID `json:"instance,omitempty"`
	Cold       bool       `json:"cold,omitempty"`
	StartedAt  time.Time  `json:"startedAt"`
	EndedAt    time.Time  `json:"endedAt"`
	InitMicros int64      `json:"initMicros,omitempty"`
	RunMicros  int64      `json:"runMicros,omitempty"`
	Error      *Error     `json:"error,omitempty"`
}

// DeadLetter heads the frame of an event that is given up; the frame's body is as
// that of the event's own frame.
type DeadLetter struct {
	// Event has all attempts.
	Event  Event     `json:"event"`
	DiedAt time.Time `json:"diedAt"`
	// Reason is the last failure.
	Reason *Error `json:"reason"`
}

// CancelRequest tells everybody to give up an invocation: the node that runs it
// kills the instance.
type CancelRequest struct {
	Invocation InvocationID `json:"invocation"`
}
