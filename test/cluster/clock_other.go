//go:build !amd64

package cluster

import (
	"errors"
	"time"
)

// ClocksJump says that [Process.ShiftClock] works on this machine.
const ClocksJump = false

// ShiftClock works on amd64 only.
func (p *Process) ShiftClock(time.Duration) error {
	return errors.New("the clock of " + p.Name + " cannot be shifted on this architecture")
}
