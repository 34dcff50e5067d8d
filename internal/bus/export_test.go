package bus

import (
	"context"
	"time"
)

// Behind is a bucket of which the server that leads is said to be further than the one
// that sends it, which is waited for so long.
func Behind(b *Bucket, patience time.Duration, newest func(context.Context, string) (uint64, error)) *Bucket {
	behind := *b
	behind.newestOf, behind.patience = newest, patience
	return &behind
}

// Forgetful is a bucket that remembers removals for so long.
func Forgetful(b *Bucket, markerTTL time.Duration) *Bucket {
	forgetful := *b
	forgetful.markerTTL = markerTTL
	return &forgetful
}

// Waiting is how many messages wait for the write that is under way; -1 while there is none.
func Waiting(k *Committer) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.writing {
		return -1
	}
	return len(k.queue)
}

// UnledBound is how long [UntilLed] goes on.
const UnledBound = unledBound

// UntilLed calls write until somebody answers.
func UntilLed(write func() bool) { untilLed(write) }

// NoticedWithin is how soon it shows that a server neither answers nor closes.
const NoticedWithin = noticedWithin
