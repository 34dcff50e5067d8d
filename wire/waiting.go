package wire

// Bounds of the calls that wait in a gateway for an instance. What is beyond is
// refused with [CodeThrottled].
const (
	// MaxWaiting bounds them in one gateway, MaxWaitingBytes their events together:
	// each holds a connection and its event in memory.
	MaxWaiting      = 10_000
	MaxWaitingBytes = 256 << 20
	// MinWaiting calls of one version may wait, and WaitingPerSlot for each event that
	// its instances may take at once: enough for a burst, and few enough for the last
	// of them to have a chance.
	MinWaiting     = 1000
	WaitingPerSlot = 4
	// MaxPlacing bounds the questions to the scheduler that one gateway has under way
	// for one version: enough to keep the scheduler and the nodes busy with a burst.
	MaxPlacing = 16
)
