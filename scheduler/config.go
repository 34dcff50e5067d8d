package scheduler

import (
	"fmt"
	"time"
)

const (
	minLeaderTTL = 100 * time.Millisecond
	maxName      = 256
)

// Config describes a scheduler. The zero value is ready for use.
type Config struct {
	// Name shows in logs and in the leader's lease; it need not be unique.
	Name string
	// LeaderTTL is how long a leader that went silent blocks the others;
	// default 2 s, at least 100 ms. All schedulers must use the same. It is the larger part
	// of the time without a leader when one is killed, and no shorter than what a busy disk
	// under NATS may take for one write.
	LeaderTTL time.Duration
	// RenewEvery is how often the leader renews its lease; default 500 ms, so that a write
	// may take a second.
	RenewEvery time.Duration
	// Margin is how long before the lease ends the leader stops to answer; default
	// 500 ms: an answer is on its way no longer. RenewEvery and Margin together must be
	// less than LeaderTTL.
	Margin time.Duration
	// RetryEvery is the pause between two attempts to lead; default 100 ms.
	RetryEvery time.Duration
	// ProbeQuiet ends a new leader's wait for the nodes' states when no further
	// node has answered for this long; default 50 ms.
	ProbeQuiet time.Duration
	// ProbeMax bounds that wait; default 750 ms.
	ProbeMax time.Duration
	// SweepEvery is how often lost nodes and old leases are looked for; default
	// 250 ms.
	SweepEvery time.Duration
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&c.LeaderTTL, 2 * time.Second},
		{&c.RenewEvery, 500 * time.Millisecond},
		{&c.Margin, 500 * time.Millisecond},
		{&c.RetryEvery, 100 * time.Millisecond},
		{&c.ProbeQuiet, 50 * time.Millisecond},
		{&c.ProbeMax, 750 * time.Millisecond},
		{&c.SweepEvery, 250 * time.Millisecond},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	return c
}

func (c Config) validate() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"LeaderTTL", c.LeaderTTL},
		{"RenewEvery", c.RenewEvery},
		{"Margin", c.Margin},
		{"RetryEvery", c.RetryEvery},
		{"ProbeQuiet", c.ProbeQuiet},
		{"ProbeMax", c.ProbeMax},
		{"SweepEvery", c.SweepEvery},
	} {
		if d.value < 0 {
			return fmt.Errorf("scheduler: %s is %s; it must not be negative", d.name, d.value)
		}
	}
	if c.LeaderTTL < minLeaderTTL {
		return fmt.Errorf("scheduler: LeaderTTL is %s; NATS needs at least %s", c.LeaderTTL, minLeaderTTL)
	}
	if c.RenewEvery+c.Margin >= c.LeaderTTL {
		return fmt.Errorf("scheduler: RenewEvery (%s) and Margin (%s) together must be less than LeaderTTL (%s)",
			c.RenewEvery, c.Margin, c.LeaderTTL)
	}
	if len(c.Name) > maxName {
		return fmt.Errorf("scheduler: Name has %d bytes; at most %d are allowed", len(c.Name), maxName)
	}
	return nil
}
