package wire

import "time"

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
