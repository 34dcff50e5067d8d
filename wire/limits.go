package wire

import "time"

// Limits that both sides of a message must agree on. Sizes are in bytes.
const (
	// MaxSyncPayload bounds the body of a synchronous call and of its answer,
	// as AWS Lambda does.
	MaxSyncPayload = 6 << 20
	// MaxEvent bounds an event and a result inside the platform: a body of
	// MaxSyncPayload in base64 with its headers.
	MaxEvent = 10 << 20
	// FrameHeadroom is what a message keeps free below the NATS limit for the
	// frame's header; a larger payload travels as a claim check in S3.
	FrameHeadroom = 64 << 10
	// MaxBundlePacked and MaxBundleUnpacked bound an uploaded bundle.
	MaxBundlePacked   = 100 << 20
	MaxBundleUnpacked = 250 << 20
	// BundlePart is the size of every part of an uploaded bundle but the last.
	BundlePart = 8 << 20
	// MaxBundleFiles bounds the entries of a bundle.
	MaxBundleFiles = 50_000
	// MaxVersions is how many versions of a function are kept; the oldest that nothing
	// names make room for a new one.
	MaxVersions = 100
	// MaxImageArchive bounds an uploaded image archive that a root is made of.
	MaxImageArchive = 2 << 30
	// MaxLogLine is where a longer line of a function's output is cut.
	MaxLogLine = 16 << 10
	// MaxInvocationLog bounds what is kept of one invocation's output.
	MaxInvocationLog = 1 << 20
	// LogTail is how much of the log an error carries to the caller.
	LogTail = 4 << 10
	// MaxAsyncPayload bounds an accepted event and its result.
	MaxAsyncPayload = 100 << 20
	// MaxEventDepth is how many events may come one of the other, from function to
	// function, before the last one is given up as a loop.
	MaxEventDepth = 16
	// EventPartitions is over how many queues a function's ordered events are spread.
	EventPartitions = 16
	// MaxAttempts bounds the attempts at one event, redriven ones included.
	MaxAttempts = 100
	// MaxStreamed bounds an answer that a function sends piece by piece, and StreamWindow
	// what of it may be on its way, in [StreamCost].
	MaxStreamed  = 200 << 20
	StreamWindow = 1 << 20
	// MaxOutputFiles and MaxOutputBytes bound what one invocation stores.
	MaxOutputFiles = 1000
	MaxOutputBytes = 100 << 20
)

const (
	// DefaultTimeout and MaxTimeout bound how long a function may run.
	DefaultTimeout = 30 * time.Second
	MaxTimeout     = 15 * time.Minute
	// InitTimeout bounds starting an instance until it asks for its first event.
	InitTimeout = 10 * time.Second
	// HeartbeatEvery is how often a node says that it lives; a node that was
	// silent for NodeLostAfter is given up.
	HeartbeatEvery = 500 * time.Millisecond
	NodeLostAfter  = 2 * time.Second
	// LeaseTTL is how long the scheduler keeps resources for a call that has
	// not reached its node.
	LeaseTTL = 15 * time.Second
	// BuildBeatEvery is how often a builder says that a build is in hand; one that was
	// silent for BuildLostAfter is given up, and the build is another's.
	BuildBeatEvery = time.Second
	BuildLostAfter = 5 * time.Second
	// StreamAckEvery is how often who takes an answer piece by piece says how far it is,
	// whether it got further or not; a node that hears nothing for StreamLostAfter gives
	// it up.
	StreamAckEvery  = 2 * time.Second
	StreamLostAfter = 10 * time.Second
)
