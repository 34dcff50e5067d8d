package functions

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestScheduleInItsTimezone(t *testing.T) {
	from := time.Date(2026, 3, 27, 23, 30, 0, 0, time.UTC)
	for _, test := range []struct{ schedule, zone, fields, next string }{
		{"*/5 * * * *", "", "0 */5 * * * *", "2026-03-27T23:35:00Z"},
		{"*/2 * * * * *", "UTC", "*/2 * * * * *", "2026-03-27T23:30:02Z"},
		{"@daily", "UTC", "0 0 0 * * *", "2026-03-28T00:00:00Z"},
		{"0 9 * * MON", "Asia/Tokyo", "0 0 9 * * MON", "2026-03-30T00:00:00Z"},
		// In Berlin the clocks go forward on 29 March at two.
		{"30 2 * * *", "Europe/Berlin", "0 30 2 * * *", "2026-03-28T01:30:00Z"},
		{"30 3 29 3 *", "Europe/Berlin", "0 30 3 29 3 *", "2026-03-29T01:30:00Z"},
		{"0 0 29 2 *", "UTC", "0 0 0 29 2 *", "2028-02-29T00:00:00Z"},
	} {
		s, err := ParseSchedule(test.schedule, test.zone)
		if err != nil {
			t.Errorf("%s: %v", test.schedule, err)
			continue
		}
		if got := s.Next(from).UTC().Format(time.RFC3339); got != test.next || s.Fields() != test.fields {
			t.Errorf("%s %s: %s after %q", test.schedule, test.zone, got, s.Fields())
		}
	}
}

// TestScheduleBefore: the tick before a tick's successor is the tick itself.
func TestScheduleBefore(t *testing.T) {
	var schedules []Schedule
	for _, text := range []string{
		"* * * * * *", "*/5 * * * *", "0 0 1 * *", "0 0 29 2 *", "* 0 1 1 *", "59 59 23 31 12 *", "0 12 * * SUN", "10-20 30 3 * * *", "15 2 * * *",
	} {
		for _, zone := range []string{"UTC", "America/New_York", "Asia/Tokyo"} {
			s, err := ParseSchedule(text, zone)
			if err != nil {
				t.Fatal(err)
			}
			schedules = append(schedules, s)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(schedules).Draw(t, "schedule")
		at := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(t, "at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos"))
		tick := s.Next(at)
		next := s.Next(tick)
		if got := s.Before(next); !got.Equal(tick) {
			t.Errorf("%s: ticks at %s and %s, but before the second is %s", s.Fields(), tick, next, got)
		}
		if got := s.Before(tick.Add(time.Nanosecond)); !got.Equal(tick) {
			t.Errorf("%s: just after %s, before is %s", s.Fields(), tick, got)
		}
	})
}
