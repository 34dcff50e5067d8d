package events

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

// TestNotBefore: a pause is no longer than it was meant to be, whatever the clocks say of
// who decided it and who keeps it.
func TestNotBefore(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		event, next, ended time.Time
		want               time.Duration
	}{
		"new":               {want: 0},
		"planned":           {event: now.Add(time.Hour), want: time.Hour},
		"in a pause":        {next: now.Add(3 * time.Second), ended: now.Add(-2 * time.Second), want: 3 * time.Second},
		"over":              {next: now.Add(-time.Second), ended: now.Add(-6 * time.Second), want: 0},
		"by a clock ahead":  {next: now.Add(time.Hour + 5*time.Second), ended: now.Add(time.Hour), want: 5 * time.Second},
		"by a clock behind": {next: now.Add(-time.Hour), ended: now.Add(-time.Hour - 5*time.Second), want: 0},
		"throttled":         {next: now.Add(3 * time.Second), want: 3 * time.Second},
	} {
		task := task{event: wire.Event{NotBefore: test.event}}
		if !test.next.IsZero() {
			task.entry = records.Entry{Record: wire.Record{NextAttemptAt: test.next, EndedAt: test.ended}, Revision: 1}
		}
		if got := task.notBefore(now); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
