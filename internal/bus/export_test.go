package bus

// Waiting is how many messages wait for the write that is under way; -1 while there is none.
func Waiting(k *Committer) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.writing {
		return -1
	}
	return len(k.queue)
}
