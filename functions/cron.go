package functions

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is a cron schedule in a time zone.
type Schedule struct {
	fields string
	spec   *cron.SpecSchedule
}

// scheduleHint ends every error about a schedule.
const scheduleHint = `write five fields, minute hour day month weekday, as in "*/5 * * * *", or six with seconds first`

// ParseSchedule reads five cron fields, six with seconds first, or @hourly, @daily,
// @weekly, @monthly or @yearly. The zone is a name of the IANA database, or UTC when it
// is empty. The error says what is wrong with which of the two.
func ParseSchedule(text, zone string) (Schedule, error) {
	loc, err := loadZone(zone)
	if err != nil {
		return Schedule{}, err
	}
	fields, err := sixFields(text)
	if err != nil {
		return Schedule{}, err
	}
	parsed, err := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(fields)
	spec, ok := parsed.(*cron.SpecSchedule)
	if err != nil || !ok {
		return Schedule{}, fmt.Errorf("schedule %s: %w; %s", shown(text), err, scheduleHint)
	}
	spec.Location = loc
	s := Schedule{fields: fields, spec: spec}
	if s.Next(time.Unix(0, 0)).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %s never comes: no month has such a day", shown(text))
	}
	return s, nil
}

func loadZone(zone string) (*time.Location, error) {
	switch zone {
	case "", "UTC":
		return time.UTC, nil
	case "Local":
		return nil, errors.New(`timezone "Local" is another one on every machine; name it, as in Asia/Tokyo`)
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("timezone %s is not known; use a name such as Asia/Tokyo or UTC", shown(zone))
	}
	return loc, nil
}

// sixFields writes a schedule with seconds first.
func sixFields(text string) (string, error) {
	if named := map[string]string{
		"@hourly": "0 0 * * * *", "@daily": "0 0 0 * * *", "@midnight": "0 0 0 * * *", "@weekly": "0 0 0 * * 0",
		"@monthly": "0 0 0 1 * *", "@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *",
	}[text]; named != "" {
		return named, nil
	}
	fields := strings.Fields(text)
	switch {
	case strings.Contains(text, "="): // a zone inside the schedule
		return "", fmt.Errorf("schedule %s: the time zone has a key of its own, timezone", shown(text))
	case strings.HasPrefix(text, "@"):
		return "", fmt.Errorf("schedule %s is not known; use @hourly, @daily, @weekly, @monthly or @yearly, or %s", shown(text), scheduleHint)
	case len(fields) == 5:
		fields = append([]string{"0"}, fields...)
	case len(fields) != 6:
		return "", fmt.Errorf("schedule %s has %d fields; %s", shown(text), len(fields), scheduleHint)
	}
	return strings.Join(fields, " "), nil
}

// Fields is the schedule as six cron fields, seconds first.
func (s Schedule) Fields() string { return s.fields }

// Next is the first tick after t, or zero when none comes within five years.
func (s Schedule) Next(t time.Time) time.Time { return s.spec.Next(t) }

// maxLookBack is how far Before looks, and more than a leap day is apart.
const maxLookBack = 9 * 366 * 24 * time.Hour

// Before is the last tick before t, or zero when there was none for years.
func (s Schedule) Before(t time.Time) time.Time {
	// Ticks can be had one after the other only forwards. The step back grows until there
	// is one, and is then halved until it is the last.
	back := time.Minute
	for ; s.Next(t.Add(-back)).IsZero() || !s.Next(t.Add(-back)).Before(t); back *= 4 {
		if back > maxLookBack {
			return time.Time{}
		}
	}
	from, to := t.Add(-back), t
	for to.Sub(from) > time.Second {
		middle := from.Add(to.Sub(from) / 2)
		if next := s.Next(middle); !next.IsZero() && next.Before(t) {
			from = middle
		} else {
			to = middle
		}
	}
	tick := s.Next(from)
	// Halving stops within a second of it, in which there is one tick at most.
	if next := s.Next(tick); !next.IsZero() && next.Before(t) {
		tick = next
	}
	return tick
}
