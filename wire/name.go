package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// Core NATS subjects.

// NodeInvokeSubject is where a node takes invocations.
func NodeInvokeSubject(n NodeID) string { return "dayfly.node." + string(n) + ".invoke" }

// NodeControlSubject is where a node takes the leading scheduler's commands: each
// is a [KeepRequest].
func NodeControlSubject(n NodeID) string { return "dayfly.node." + string(n) + ".control" }

// NodeStateSubject is where a node publishes its [NodeWord].
func NodeStateSubject(n NodeID) string { return "dayfly.node." + string(n) + ".state" }

// AllNodeStates matches the [NodeWord] messages of every node.
const AllNodeStates = "dayfly.node.*.state"

// NodeProbeSubject asks every node to publish all of its state now.
const NodeProbeSubject = "dayfly.nodes.probe"

// NodeAskSubject asks one node for it.
func NodeAskSubject(n NodeID) string { return "dayfly.node." + string(n) + ".ask" }

// StemKey names the stems of a root file system and a network.
func StemKey(root, network string) string { return root + "/" + network }

// PlaceSubject is where the leading scheduler answers [PlaceRequest].
const PlaceSubject = "dayfly.scheduler.place"

// BuildSubject is where builders share [BuildRequest] in the group [BuildGroup].
const (
	BuildSubject = "dayfly.builder.build"
	BuildGroup   = "builders"
)

// LogSubject carries the [LogEntry] messages of one invocation, or, without one, what
// instances print that is no invocation's.
func LogSubject(f FunctionID, id InvocationID) string {
	if id == "" {
		id = "-"
	}
	return "dayfly.log." + f.Namespace + "." + f.Name + "." + string(id)
}

// FunctionLogs matches the log of every invocation of one function.
func FunctionLogs(f FunctionID) string { return "dayfly.log." + f.Namespace + "." + f.Name + ".*" }

// RecordSubject carries the [Record] of one invocation; the last one counts.
func RecordSubject(f FunctionID, id InvocationID) string {
	return "dayfly.record." + f.Namespace + "." + f.Name + "." + string(id)
}

// StoredRecordSubject is [RecordSubject] for an event, or an invocation whose output
// is kept. It counts before the other, unless it says that the event waits.
func StoredRecordSubject(f FunctionID, id InvocationID) string {
	return "dayfly.stored." + f.Namespace + "." + f.Name + "." + string(id)
}

// FunctionRecords and FunctionStoredRecords match the records of all invocations of a
// function.
func FunctionRecords(f FunctionID) string {
	return "dayfly.record." + f.Namespace + "." + f.Name + ".*"
}

// FunctionStoredRecords is described at [FunctionRecords].
func FunctionStoredRecords(f FunctionID) string {
	return "dayfly.stored." + f.Namespace + "." + f.Name + ".*"
}

// AnyRecordSubject and AnyStoredRecordSubject match the records of an invocation
// whose function is not known.
func AnyRecordSubject(id InvocationID) string       { return "dayfly.record.*.*." + string(id) }
func AnyStoredRecordSubject(id InvocationID) string { return "dayfly.stored.*.*." + string(id) }

// EventSubject holds one accepted event until it is done.
func EventSubject(f FunctionID, id InvocationID) string {
	return "dayfly.event." + f.Namespace + "." + f.Name + "." + string(id)
}

// FunctionEvents matches all accepted events of a function.
func FunctionEvents(f FunctionID) string { return "dayfly.event." + f.Namespace + "." + f.Name + ".*" }

// AnyEventSubject matches the accepted event of an invocation whose function is not
// known.
func AnyEventSubject(id InvocationID) string { return "dayfly.event.*.*." + string(id) }

// EventHintSubject tells the events workers, each with an [EventQueue], that a queue has
// events.
const EventHintSubject = "dayfly.events.hint"

// DeadLetterSubject holds one event that was given up.
func DeadLetterSubject(f FunctionID, id InvocationID) string {
	return "dayfly.dead." + f.Namespace + "." + f.Name + "." + string(id)
}

// FunctionDeadLetters matches all dead letters of a function.
func FunctionDeadLetters(f FunctionID) string {
	return "dayfly.dead." + f.Namespace + "." + f.Name + ".*"
}

// CancelSubject tells everybody of a [CancelRequest].
const CancelSubject = "dayfly.cancel"

// IdempotencySubject remembers, for a while, which invocation a key of a caller is, by
// the key's digest.
func IdempotencySubject(d Digest) string { return "dayfly.idempotency." + string(d) }

// JetStream streams and the subjects they capture.
const (
	StreamLogs          = "dayfly_logs"
	StreamRecords       = "dayfly_records"
	StreamStoredRecords = "dayfly_stored_records"
	StreamEvents        = "dayfly_events"
	StreamDeadLetters   = "dayfly_dead_letters"
	StreamIdempotency   = "dayfly_idempotency"

	AllLogs          = "dayfly.log.>"
	AllRecords       = "dayfly.record.*.*.*"
	AllStoredRecords = "dayfly.stored.*.*.*"
	AllEvents        = "dayfly.event.*.*.*"
	AllDeadLetters   = "dayfly.dead.*.*.*"
	AllIdempotency   = "dayfly.idempotency.*"
)

// Key-value buckets.
const (
	BucketFunctions = "dayfly_functions"
	BucketLeases    = "dayfly_leases"
	// BucketGarbage notes the objects in S3 that nothing refers to, and those that
	// somebody is about to refer to.
	BucketGarbage = "dayfly_garbage"
)

// SchedulerLeaseKey is the key in [BucketLeases] that the leading scheduler holds.
const SchedulerLeaseKey = "scheduler"

// FunctionKey is a function's key in [BucketFunctions].
func FunctionKey(f FunctionID) string { return f.Namespace + "." + f.Name + ".function" }

// VersionKey is a version's key in [BucketFunctions].
func VersionKey(v VersionID) string {
	return v.Namespace + "." + v.Name + ".version." + strconv.Itoa(v.Number)
}

// ParseFunctionKey reverses [FunctionKey] and [VersionKey]; number is 0 for a
// function's own key.
func ParseFunctionKey(key string) (f FunctionID, number int, err error) {
	parts := strings.Split(key, ".")
	switch {
	case len(parts) == 3 && parts[2] == "function":
	case len(parts) == 4 && parts[2] == "version":
		// Only the spelling that VersionKey gives: 01 would be a second key for 1.
		if number, err = strconv.Atoi(parts[3]); err != nil || number < 1 || strconv.Itoa(number) != parts[3] {
			return FunctionID{}, 0, fmt.Errorf("key %q: no version number", key)
		}
	default:
		return FunctionID{}, 0, fmt.Errorf("key %q names neither a function nor a version", key)
	}
	if !ValidName(parts[0]) || !ValidName(parts[1]) {
		return FunctionID{}, 0, fmt.Errorf("key %q names no function", key)
	}
	return FunctionID{Namespace: parts[0], Name: parts[1]}, number, nil
}

// S3 object keys.

// CodeKey holds an artifact: a gzip-compressed tar, named by its own digest.
func CodeKey(d Digest) string { return "code/" + string(d) }

// BuildKey holds the record of what a builder made of an input, by the input's digest.
func BuildKey(input Digest) string { return AllBuilds + string(input) }

// Folders of objects that are named by their digest.
const (
	AllCode     = "code/"
	AllBuilds   = "builds/"
	AllImages   = "images/"
	AllRuntimes = "runtimes/"
)

// BundleKey holds an upload on its way to where it is kept, or read.
func BundleKey(upload string) string { return "bundles/" + upload }

// StoredBundleKey holds an uploaded bundle, named by its own digest, until it is
// collected. BundlePartKey holds a part of one on its way, counted from 1.
func StoredBundleKey(d Digest) string { return BundleFolder(d) + "bundle" }

// BundlePartKey is described at [StoredBundleKey].
func BundlePartKey(d Digest, part int) string {
	return BundleFolder(d) + "parts/" + strconv.Itoa(part)
}

// BundleFolder is where everything of one bundle is, AllBundles where all are.
func BundleFolder(d Digest) string { return AllBundles + string(d) + "/" }

// AllBundles is described at [BundleFolder].
const AllBundles = "bundles/"

// RequestKey is the claim check of an event over the NATS limit.
func RequestKey(id InvocationID) string { return "payloads/" + string(id) + "/request" }

// RestKey holds what is left of an event's payload after an attempt that did part of it.
// The part tells those of several attempts apart.
func RestKey(id InvocationID, part string) string {
	return "payloads/" + string(id) + "/rest-" + part
}

// ResponseKey is the claim check of a result over the NATS limit.
func ResponseKey(id InvocationID) string { return "payloads/" + string(id) + "/response" }

// AllPayloads and AllOutputs are the folders of all claim checks and of all that
// invocations left.
const (
	AllPayloads = "payloads/"
	AllOutputs  = "outputs/"
)

// StoreProbeKey is what a node writes to find out whether outputs can be stored. No
// namespace begins with a dot.
func StoreProbeKey(n NodeID) string { return AllOutputs + ".probe/" + string(n) }

// OutputPrefix is the folder of what one invocation left behind.
func OutputPrefix(f FunctionID, id InvocationID) string {
	return "outputs/" + f.Namespace + "/" + f.Name + "/" + string(id) + "/"
}

// OutputResultKey holds an invocation's result.
func OutputResultKey(f FunctionID, id InvocationID) string { return OutputPrefix(f, id) + "result" }

// OutputFileKey holds a file that an invocation left in its output folder, by its
// slash-separated path there, which [io/fs.ValidPath] accepts.
func OutputFileKey(f FunctionID, id InvocationID, path string) string {
	return OutputPrefix(f, id) + "files/" + path
}
