package events

// Sweep lets a test sweep at a moment of its choice.
var Sweep = (*Worker).sweep

// Open counts the queues that are open.
func Open(w *Worker) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queues)
}
