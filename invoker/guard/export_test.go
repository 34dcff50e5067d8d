package guard

// PID is the process's ID, or 0 while there is none.
func (g *Guard) PID() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid
}
