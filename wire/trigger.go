package wire

// Streams of what triggers listen to.
const (
	// StreamInbox keeps what is published for queue and bucket triggers until a little
	// after all of them have taken it.
	StreamInbox = "dayfly_inbox"
	// StreamSchedules keeps the schedules of cron triggers, and their ticks until they
	// are taken.
	StreamSchedules = "dayfly_schedules"
)

// ScheduleSubject holds the schedule of one cron trigger, see [TriggerID].
func ScheduleSubject(f FunctionID, trigger TriggerID) string {
	return "dayfly.schedule." + f.Namespace + "." + f.Name + "." + string(trigger)
}

// TickSubject holds the ticks of one cron trigger.
func TickSubject(f FunctionID, trigger TriggerID) string {
	return "dayfly.tick." + f.Namespace + "." + f.Name + "." + string(trigger)
}

// AllSchedules and AllTicks match the schedules and ticks of every trigger.
const (
	AllSchedules = "dayfly.schedule.*.*.*"
	AllTicks     = "dayfly.tick.*.*.*"
)

// BucketSubject carries the notifications of one S3 bucket, each a document of S3's
// with one record. A bucket's name may have dots, which are tokens of the subject.
func BucketSubject(bucket string) string { return "dayfly.bucket." + bucket }

// AllBuckets matches the notifications of every bucket.
const AllBuckets = "dayfly.bucket.>"

// NotificationSubject is where an S3 server that knows NATS publishes the
// notifications of any of its buckets.
const NotificationSubject = "dayfly.notifications"

// HeaderKey is the header of a message that names what it must not overtake, for queue
// triggers that are ordered; without it that is the subject.
const HeaderKey = "Dayfly-Key"

// TriggerID tells the triggers of a function apart: it changes with what the trigger
// says, and only with that.
type TriggerID string

// TriggerConsumer names the consumer by which a trigger takes its messages.
func TriggerConsumer(f FunctionID, trigger TriggerID) string {
	return FunctionTriggerConsumers(f) + string(trigger)
}

// TriggerConsumers begins the names of the consumers of all triggers.
const TriggerConsumers = "trigger_"

// FunctionTriggerConsumers begins the names of the consumers of a function's triggers.
func FunctionTriggerConsumers(f FunctionID) string {
	return TriggerConsumers + f.Namespace + "_" + f.Name + "_"
}

// BucketLocks is the key-value bucket of what only one process may do at a time; a key
// is held by who made it. SourcesLock is for changing what triggers listen to.
const (
	BucketLocks = "dayfly_locks"
	SourcesLock = "sources"
)
