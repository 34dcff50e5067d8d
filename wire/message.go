package wire

import "time"

// Resources are what an instance takes and a node has.
type Resources struct {
	MemoryBytes int64 `json:"memoryBytes"`
	// CPUMillis is in thousandths of a core.
	CPUMillis int64 `json:"cpuMillis"`
	Instances int   `json:"instances"`
}

// Plus returns the sum of r and o.
func (r Resources) Plus(o Resources) Resources {
	return Resources{r.MemoryBytes + o.MemoryBytes, r.CPUMillis + o.CPUMillis, r.Instances + o.Instances}
}

// Minus returns r without o.
func (r Resources) Minus(o Resources) Resources {
	return Resources{r.MemoryBytes - o.MemoryBytes, r.CPUMillis - o.CPUMillis, r.Instances - o.Instances}
}

// Fits reports whether o fits into r in every dimension.
func (r Resources) Fits(o Resources) bool {
	return o.MemoryBytes <= r.MemoryBytes && o.CPUMillis <= r.CPUMillis && o.Instances <= r.Instances
}

// InvokeRequest heads the frame that asks a node to run one event; the frame's
// body is the event, or empty when PayloadKey says where it is.
type InvokeRequest struct {
	Invocation InvocationID `json:"invocation"`
	Version    VersionID    `json:"version"`
	// Lease permits the node to start an instance; without one it answers
	// [CodeNoInstance] unless a warm instance is free.
	Lease LeaseID `json:"lease,omitempty"`
	// Epoch is that of the scheduler which gave the lease.
	Epoch      uint64 `json:"epoch,omitempty"`
	PayloadKey string `json:"payloadKey,omitempty"`
	// Event says that this is an attempt at an accepted event: the node stores the
	// output, whatever the version says, and answers with it, and leaves the record
	// to who asks.
	Event bool `json:"event,omitempty"`
	// Start asks for no run: the node has an instance ready, or starts one, which stays,
	// and answers. An instance that takes one event in its life goes again.
	Start bool `json:"start,omitempty"`
	// Stream is the subject that takes the pieces of an answer which the function sends
	// as it makes it, see [StreamPiece]. Without one the node collects them.
	Stream string `json:"stream,omitempty"`
	// Cause is the invocation whose function called, if one did, and Depth how many steps
	// from function to function lie behind this one; see [MaxEventDepth].
	Cause InvocationID `json:"cause,omitempty"`
	Depth int          `json:"depth,omitempty"`
	// Offer numbers the message: no other has the same. Zero is one that nobody will
	// inquire about, see [InquiryRequest].
	Offer uint64 `json:"offer,omitempty"`
}

// InvokeReply heads the frame that answers an [InvokeRequest]; the frame's body
// is the function's result, or empty when PayloadKey says where it is.
type InvokeReply struct {
	Error      *Error     `json:"error,omitempty"`
	PayloadKey string     `json:"payloadKey,omitempty"`
	Node       NodeID     `json:"node"`
	Instance   InstanceID `json:"instance,omitempty"`
	// StateSeq is the [NodeState].Seq that the node had reached: words with it or
	// a lower one were said before this answer, whenever they arrive.
	StateSeq uint64 `json:"stateSeq,omitempty"`
	// Cold says that this call waited for its instance to start, Spent that the
	// instance takes no further one.
	Cold  bool `json:"cold,omitempty"`
	Spent bool `json:"spent,omitempty"`
	// InitMicros is how long starting took, RunMicros how long the function ran.
	InitMicros int64 `json:"initMicros,omitempty"`
	RunMicros  int64 `json:"runMicros,omitempty"`
	// Output is what was stored, when the request has Event.
	Output *Output `json:"output,omitempty"`
	// Streamed says that the function sent its result piece by piece; it need not be
	// JSON then, but what ContentType says. Pieces counts those that were passed on.
	Streamed    bool   `json:"streamed,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	Pieces      uint64 `json:"pieces,omitempty"`
}

// PlaceRequest asks the leading scheduler for a node that may start an instance.
type PlaceRequest struct {
	// Invocation is the call that waits, for the scheduler's log.
	Invocation InvocationID `json:"invocation"`
	Version    VersionID    `json:"version"`
	Runtime    string       `json:"runtime"`
	Code       Digest       `json:"code"`
	// Stem is the key in [NodeState].Stems of the containers that would do.
	Stem string `json:"stem,omitempty"`
	// Needs is what one instance takes.
	Needs Resources `json:"needs"`
	// MaxInstances bounds the instances of this version in the whole cluster.
	MaxInstances int `json:"maxInstances"`
	// Exclude lists nodes that just refused.
	Exclude []NodeID `json:"exclude,omitempty"`
	// Again says that a place for this call was asked for before and will not be used: the
	// answer was lost, or the call on its way there. What was set aside is free.
	Again bool `json:"again,omitempty"`
	// Selector lists labels that the node must have, all of them.
	Selector map[string]string `json:"selector,omitempty"`
	// Arch is what the code was made for, by the node's label of that name; empty for
	// code that runs anywhere.
	Arch string `json:"arch,omitempty"`
	// Protocol is what who asks speaks, see [Protocol].
	Protocol int `json:"protocol,omitempty"`
}

// PlaceReply answers a [PlaceRequest].
type PlaceReply struct {
	Node  NodeID  `json:"node,omitempty"`
	Lease LeaseID `json:"lease,omitempty"`
	Epoch uint64  `json:"epoch,omitempty"`
	Error *Error  `json:"error,omitempty"`
}

// NodeState is what a node says of itself, at every heartbeat and soon after
// every change. Nodes are the only source of truth about instances.
type NodeState struct {
	Node NodeID `json:"node"`
	// Run differs after every start of the invoker; Seq grows within a run.
	Run string `json:"run"`
	Seq uint64 `json:"seq"`
	// Capacity is what the node offers, Reserved what its instances hold, and
	// Idle the part of Reserved that it would give back for another function.
	Capacity Resources `json:"capacity"`
	Reserved Resources `json:"reserved"`
	Idle     Resources `json:"idle"`
	// Sandbox names the kind that makes containers there.
	Sandbox  string   `json:"sandbox"`
	Runtimes []string `json:"runtimes"`
	// Draining says that the node takes no lease and lets what it has end, but for the
	// instances that it keeps until others stand in for them. Its words offer only slots
	// that it goes on serving. Drained says that nothing is left: it may be switched off.
	Draining bool `json:"draining,omitempty"`
	Drained  bool `json:"drained,omitempty"`
	// Stopping is the last state of a run: the node is gone.
	Stopping bool            `json:"stopping,omitempty"`
	Versions []VersionOnNode `json:"versions,omitempty"`
	// Ran counts what ended on the node, by version, of those that ran within the last
	// seconds. A version that is not told of any more begins at zero.
	Ran []Ran `json:"ran,omitempty"`
	// Stems counts the containers that wait for a function, by [StemKey].
	Stems map[string]int `json:"stems,omitempty"`
	// Codes lists the artifacts in the node's cache.
	Codes []Digest `json:"codes,omitempty"`
	// Settled lists leases that the node has taken into Reserved or given back
	// within the last [LeaseTTL].
	Settled []LeaseID `json:"settled,omitempty"`
	// Load is the one-minute load average per core.
	Load float64 `json:"load"`
	// At is when this was said, by the node's clock.
	At time.Time `json:"at,omitzero"`
	// Build is the version of the node's binary, Protocol what it speaks.
	Build    string `json:"build"`
	Protocol int    `json:"protocol"`
	// Labels are the node's, those that every node has included.
	Labels map[string]string `json:"labels,omitempty"`
}

// Ran counts the invocations of a version that ended on a node; it only grows.
type Ran struct {
	Version VersionID `json:"version"`
	Calls   uint64    `json:"calls"`
	Errors  uint64    `json:"errors,omitempty"`
	// Cold is how many of them an instance was started for.
	Cold      uint64 `json:"cold,omitempty"`
	RunMicros int64  `json:"runMicros,omitempty"`
}

// VersionOnNode counts one version's instances on a node.
type VersionOnNode struct {
	Version  VersionID `json:"version"`
	Starting int       `json:"starting,omitempty"`
	Idle     int       `json:"idle,omitempty"`
	Busy     int       `json:"busy,omitempty"`
	// Slots is how many events the idle and busy ones take at once, all together.
	Slots int `json:"slots,omitempty"`
	// Kept is how many instances the node was told to keep, see [KeepRequest].
	Kept int `json:"kept,omitempty"`
}

// KeepRequest tells a node how many instances of a version it must hold from now
// on, whether they are called or not. It is sent by the leading scheduler, and
// answered with a [KeepReply] once the node has taken it, before the instances run.
type KeepRequest struct {
	Version VersionID `json:"version"`
	Count   int       `json:"count"`
	// Epoch is that of the scheduler, Lease what it set aside for one more instance.
	Epoch uint64  `json:"epoch"`
	Lease LeaseID `json:"lease,omitempty"`
}

// KeepReply answers a [KeepRequest].
type KeepReply struct {
	Error *Error `json:"error,omitempty"`
}

// BuildRequest asks a builder to turn an uploaded bundle into an artifact.
type BuildRequest struct {
	ID string `json:"id"`
	// Bundle is the key of the uploaded bundle, a gzip-compressed tar.
	Bundle string `json:"bundle"`
	// Namespace is the function's; builds of one share caches with no other.
	Namespace string `json:"namespace"`
	// Vendor says that dependencies are in the bundle: nothing is fetched.
	Vendor bool `json:"vendor,omitempty"`
}

// BuildProgress is a piece of the answer to a [BuildRequest], which goes to the request's
// inbox. An empty one says that the build is in hand; it is a request itself, so that
// the builder hears when nobody waits any more. One comes at least every
// [BuildBeatEvery].
type BuildProgress struct {
	// Log is what the build printed since the last piece.
	Log string `json:"log,omitempty"`
	// Again says that this builder has no room, or stops: ask once more, and another
	// takes it. The answer ends with it.
	Again bool `json:"again,omitempty"`
	// Reply ends the answer.
	Reply *BuildReply `json:"reply,omitempty"`
}

// BuildReply ends the answer to a [BuildRequest]. Manifest is the bundle's dayfly.yaml as
// it was; the gateway reads it with the rules it uses itself.
type BuildReply struct {
	Error    *Error `json:"error,omitempty"`
	Manifest []byte `json:"manifest,omitempty"`
	Code     Digest `json:"code,omitempty"`
	// CodeBytes is the size of the artifact, packed.
	CodeBytes int64 `json:"codeBytes,omitempty"`
	// Image is set, and Code its digest, when the function runs in its own image.
	Image *Image `json:"image,omitempty"`
	// Arch is what the artifact was made for, as Go names it; empty for one that runs
	// anywhere.
	Arch string `json:"arch,omitempty"`
	// Log is what the build printed.
	Log string `json:"log,omitempty"`
	// Cached says that nothing was built: the same bundle was before.
	Cached bool `json:"cached,omitempty"`
}

// LogEntry is a piece of what one invocation printed, or, without one, of what its
// instance printed of which nobody knows for whom: where several run at once.
type LogEntry struct {
	Invocation InvocationID `json:"invocation"`
	Version    VersionID    `json:"version"`
	Node       NodeID       `json:"node"`
	Instance   InstanceID   `json:"instance"`
	Time       time.Time    `json:"time"`
	// Text holds whole lines, each ended by a newline, but for the last piece.
	Text string `json:"text"`
	// Last marks the end of the invocation.
	Last bool `json:"last,omitempty"`
	// Sequence is where it stands in the log; set for readers, who go on behind it.
	Sequence uint64 `json:"sequence,omitempty"`
}

// State is how far an invocation has come.
type State string

// States of an invocation. The first two are of events only, and pass.
const (
	// StateAccepted: it is on disk and waits for its next attempt.
	StateAccepted State = "accepted"
	StateRunning  State = "running"
	// StateSucceeded: it ran, and what it left is stored.
	StateSucceeded State = "succeeded"
	// StateFailed: it is over, and kept nowhere.
	StateFailed State = "failed"
	// StateDead: it is given up, and kept among the dead letters.
	StateDead State = "dead"
	// StateCancelled: somebody asked for its end.
	StateCancelled State = "cancelled"
)

// Final reports whether nothing more will happen.
func (s State) Final() bool { return s != StateAccepted && s != StateRunning }

// Record is what is known of an invocation. Of an event the fields from Node to
// Error are those of its latest attempt.
type Record struct {
	Invocation InvocationID `json:"invocation"`
	// Version has the number 0 while no version is chosen.
	Version    VersionID  `json:"version"`
	State      State      `json:"state"`
	Node       NodeID     `json:"node,omitempty"`
	Instance   InstanceID `json:"instance,omitempty"`
	Cold       bool       `json:"cold,omitempty"`
	StartedAt  time.Time  `json:"startedAt"`
	EndedAt    time.Time  `json:"endedAt"`
	InitMicros int64      `json:"initMicros,omitempty"`
	RunMicros  int64      `json:"runMicros,omitempty"`
	Error      *Error     `json:"error,omitempty"`
	// Output is set when the result and files are stored.
	Output *Output `json:"output,omitempty"`
	// Cause is the invocation that this one came of, if it came of one.
	Cause InvocationID `json:"cause,omitempty"`

	// What follows is known of events only.
	Source     Source    `json:"source,omitempty"`
	AcceptedAt time.Time `json:"acceptedAt,omitzero"`
	// Redrives is that of the event. A record counts for an event that came back from
	// the dead letters only if it is of that return.
	Redrives int `json:"redrives,omitempty"`
	// Attempts are all of them, the latest last; see [MaxAttempts]. Their errors are
	// short: the record's own tells all of the latest one.
	Attempts []Attempt `json:"attempts,omitempty"`
	// PayloadKey says where in S3 the rest of the payload is of an event that was done in
	// part; see [RestKey].
	PayloadKey string `json:"payloadKey,omitempty"`
	// NextAttemptAt is set while an event waits after a failed attempt.
	NextAttemptAt time.Time `json:"nextAttemptAt,omitzero"`
}

// Output lists what an invocation left in S3.
type Output struct {
	ResultBytes int64        `json:"resultBytes"`
	Files       []OutputFile `json:"files,omitempty"`
}

// OutputFile is one file from the function's output folder.
type OutputFile struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}
