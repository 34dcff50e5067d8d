package wire

import (
	"strconv"
	"time"
)

// CallSubject is where gateways share the [CallRequest] messages of nodes, in the group
// [CallGroup].
const (
	CallSubject = "dayfly.gateway.call"
	CallGroup   = "gateways"
)

// NodeCallSubject is where a node takes the answers to its [CallRequest] messages.
func NodeCallSubject(n NodeID) string { return "dayfly.node." + string(n) + ".call" }

const (
	// CallBeatEvery is how often a gateway says that it still works on a call; a node
	// that hears nothing for CallLostAfter gives the gateway up.
	CallBeatEvery = time.Second
	CallLostAfter = 10 * time.Second
)

const (
	headerCause = "Dayfly-Cause"
	headerDepth = "Dayfly-Depth"
)

// CauseHeaders are on messages that came of an invocation: of which, and how many steps
// from function to function there are with the message.
func CauseHeaders(cause InvocationID, depth int) map[string]string {
	return map[string]string{headerCause: string(cause), headerDepth: strconv.Itoa(depth)}
}

// ReadCause reverses [CauseHeaders]. A message that says nothing, or nothing sensible, has
// no cause and the depth 0.
func ReadCause(headers map[string][]string) (cause InvocationID, depth int) {
	causes, depths := headers[headerCause], headers[headerDepth]
	if len(causes) == 0 || len(depths) == 0 {
		return "", 0
	}
	depth, err := strconv.Atoi(depths[0])
	if cause = InvocationID(causes[0]); err != nil || depth < 0 || !cause.Valid() {
		return "", 0
	}
	return cause, depth
}

// CallRequest heads the frame by which a node asks a gateway for what a function on it
// wants: to call a function, or to publish a message. The frame's body is the event or
// message, or empty when PayloadKey says where it is. A gateway that takes it answers
// with an empty [CallReply] at once; the rest goes to [NodeCallSubject], a beat every
// [CallBeatEvery], and the outcome last.
type CallRequest struct {
	// ID is the call's own, for its answers.
	ID   InvocationID `json:"id"`
	Node NodeID       `json:"node"`
	// Caller is what calls, and Cause its invocation.
	Caller VersionID    `json:"caller"`
	Cause  InvocationID `json:"cause"`
	// Depth is how many steps from function to function there are with this one; see
	// [MaxEventDepth].
	Depth int `json:"depth"`
	// Ref is the function to call, in the caller's namespace unless it names one; Async
	// has it called later. Key makes repeats of such a call one event.
	Ref   string `json:"ref,omitempty"`
	Async bool   `json:"async,omitempty"`
	Key   string `json:"key,omitempty"`
	// Subject is where to publish instead.
	Subject    string `json:"subject,omitempty"`
	PayloadKey string `json:"payloadKey,omitempty"`
	// PatienceMillis is how long the caller can wait.
	PatienceMillis int64 `json:"patienceMillis"`
}

// CallReply heads the frame that answers a [CallRequest]; the frame's body is the
// function's result, or empty when PayloadKey says where it is.
type CallReply struct {
	ID InvocationID `json:"id,omitempty"`
	// Beat says only that the gateway is alive.
	Beat  bool   `json:"beat,omitempty"`
	Error *Error `json:"error,omitempty"`
	// Invocation is the one that the call made.
	Invocation  InvocationID `json:"invocation,omitempty"`
	ContentType string       `json:"contentType,omitempty"`
	PayloadKey  string       `json:"payloadKey,omitempty"`
}
