package wire

// StreamPiece heads the frame that carries a piece of an answer which a function sends
// as it makes it, from the node to who asked; the frame's body is the piece.
type StreamPiece struct {
	Node NodeID `json:"node"`
	// Seq counts the pieces of one answer from 1 on: a gap means that some are lost.
	Seq uint64 `json:"seq"`
	// Head comes with the first piece, and with that only.
	Head *StreamHead `json:"head,omitempty"`
}

// StreamHead is what a function says of an answer before the answer.
type StreamHead struct {
	ContentType string `json:"contentType,omitempty"`
	// HTTP says that it is the answer to an HTTP request, and what follows is its own.
	HTTP    bool              `json:"http,omitempty"`
	Status  int               `json:"status,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Cookies []string          `json:"cookies,omitempty"`
}

// StreamAck tells a node how much of an answer has been taken. The node has no more than
// [StreamWindow] under way beyond that.
type StreamAck struct {
	Invocation InvocationID `json:"invocation"`
	// Taken is the [StreamCost] of all pieces that were taken until now.
	Taken int64 `json:"taken"`
	// Gone says that nobody takes the rest: the node kills the instance.
	Gone bool `json:"gone,omitempty"`
}

// StreamCost is what a piece of so many bytes counts: each holds a message as well.
func StreamCost(bytes int) int64 { return int64(bytes) + 512 }

// StreamSubject is where who asks takes the pieces of an answer. The name is that of a
// process's own inbox.
func StreamSubject(inbox string, id InvocationID) string {
	return "dayfly.stream." + inbox + "." + string(id)
}

// AllStreams matches the answers that come to an inbox.
func AllStreams(inbox string) string { return "dayfly.stream." + inbox + ".*" }

// NodeStreamSubject is where a node takes [StreamAck].
func NodeStreamSubject(n NodeID) string { return "dayfly.node." + string(n) + ".stream" }
