package functions

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// How the pause between two attempts grows.
const (
	// BackoffExponential doubles it after every attempt, up to [MaxRetryDelay].
	BackoffExponential = "exponential"
	BackoffConstant    = "constant"
)

// Defaults and bounds of an [EventSpec], both ends included.
const (
	DefaultAttempts   = 3
	MaxAttempts       = 20
	DefaultEventAge   = 6 * time.Hour
	MinEventAge       = time.Second
	MaxEventAge       = 14 * 24 * time.Hour
	DefaultBackoff    = BackoffExponential
	DefaultRetryDelay = time.Second
	MinRetryDelay     = 10 * time.Millisecond
	MaxRetryDelay     = 5 * time.Minute
)

// EventSpec says what becomes of a function's accepted events.
type EventSpec struct {
	Retry RetrySpec `json:"retry"`
	// DeadLetter keeps the events that are given up.
	DeadLetter bool `json:"deadLetter"`
	// OnSuccess and OnFailure hear of the end of an event; nil for nobody.
	OnSuccess *Destination `json:"onSuccess,omitempty"`
	OnFailure *Destination `json:"onFailure,omitempty"`
}

// RetrySpec says how often and for how long an event is tried.
type RetrySpec struct {
	// Attempts counts the first one too.
	Attempts     int   `json:"attempts"`
	MaxAgeMillis int64 `json:"maxAgeMillis"`
	// Backoff is one of the Backoff constants, DelayMillis the pause after the first
	// attempt.
	Backoff     string `json:"backoff"`
	DelayMillis int64  `json:"delayMillis"`
}

// MaxAge is how long after it was accepted an event may be tried.
func (r RetrySpec) MaxAge() time.Duration { return time.Duration(r.MaxAgeMillis) * time.Millisecond }

// Delay is the pause after the first attempt.
func (r RetrySpec) Delay() time.Duration { return time.Duration(r.DelayMillis) * time.Millisecond }

// Destination is who hears of the end of an event: a function, which gets it as an
// event of its own, or a NATS subject. Exactly one is set.
type Destination struct {
	// Function is what [wire.ParseRef] reads.
	Function string `json:"function,omitempty"`
	Subject  string `json:"subject,omitempty"`
}

// Backoffs lists the values of [RetrySpec].Backoff, the usual one first. The caller may
// keep and change the slice.
func Backoffs() []string { return []string{BackoffExponential, BackoffConstant} }

// DefaultEventSpec is that of a function whose manifest says nothing.
func DefaultEventSpec() EventSpec {
	return EventSpec{
		Retry: RetrySpec{
			Attempts: DefaultAttempts, MaxAgeMillis: DefaultEventAge.Milliseconds(),
			Backoff: DefaultBackoff, DelayMillis: DefaultRetryDelay.Milliseconds(),
		},
		DeadLetter: true,
	}
}

// eventFields are the keys of a manifest that are about accepted events.
func (r *manifestReader) eventFields() []field {
	s := &r.manifest.Spec.EventSpec
	return []field{
		{"retry", func(v value) { v.fields(r.retryFields()) }},
		{"deadLetter", func(v value) {
			if keep, ok := v.boolean(); ok {
				s.DeadLetter = keep
			}
		}},
		{"onSuccess", func(v value) { s.OnSuccess = readDestination(v) }},
		{"onFailure", func(v value) { s.OnFailure = readDestination(v) }},
	}
}

func (r *manifestReader) retryFields() []field {
	s := &r.manifest.Spec.Retry
	millis := func(v value, least, most time.Duration, into *int64) {
		var d time.Duration
		if readQuantity(v, parseAge, formatAge, least, most, &d) {
			*into = d.Milliseconds()
		}
	}
	return []field{
		{"attempts", func(v value) { r.readCount("retry.attempts", v, 1, MaxAttempts, &s.Attempts) }},
		{"maxAge", func(v value) { millis(v, MinEventAge, MaxEventAge, &s.MaxAgeMillis) }},
		{"backoff", func(v value) {
			backoff, ok := v.text()
			if ok && !slices.Contains(Backoffs(), backoff) {
				v.reject("%s is not a choice; use %s", shown(backoff), oneOf(Backoffs()))
			}
			s.Backoff = backoff
		}},
		{"delay", func(v value) { millis(v, MinRetryDelay, MaxRetryDelay, &s.DelayMillis) }},
	}
}

func readDestination(v value) *Destination {
	d := &Destination{}
	entries, ok := v.entries()
	if !ok {
		return nil
	}
	if len(entries) != 1 {
		v.reject(`one destination is needed, as in "function: report" or "subject: orders.failed"; this has %d keys`, len(entries))
		return nil
	}
	v.readFields(entries, d.fields())
	return d
}

func (d *Destination) fields() []field {
	return []field{{"function", d.readFunction}, {"subject", d.readSubject}}
}

func (d *Destination) readFunction(v value) {
	text, ok := v.text()
	if _, err := wire.ParseRef(text); ok && err != nil {
		v.reject("%s", err)
	}
	d.Function = text
}

func (d *Destination) readSubject(v value) {
	text, ok := v.text()
	switch {
	case !ok:
	case !wire.ValidSubject(text):
		v.reject("%s is not a subject to publish on; write words with dots between them, as orders.failed, without spaces, * and >", shown(text))
	case SystemSubject(text):
		v.reject("subject %s belongs to the system; publish on one of your own", shown(text))
	}
	d.Subject = text
}

// SystemSubject reports whether a subject is NATS' own or Dayfly's: users neither publish
// nor listen there.
func SystemSubject(s string) bool {
	first, _, _ := strings.Cut(s, ".")
	return first == "dayfly" || first == "_INBOX" || strings.HasPrefix(first, "$")
}

// agePattern is how an age is written in a manifest; the JSON schema has the same.
var agePattern = regexp.MustCompile(`^([0-9]+(ms|s|m|h|d))+$`)

// agePart is one number of an age with its unit.
var agePart = regexp.MustCompile(`([0-9]+)(ms|s|m|h|d)`)

// parseAge reads a duration in which hours and days may stand: 500ms, 6h, 1d12h.
func parseAge(text string) (time.Duration, error) {
	if !agePattern.MatchString(text) {
		return 0, errors.New("is not a duration; write whole numbers with ms, s, m, h or d, as 30s, 6h or 1d12h")
	}
	units := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	var sum time.Duration
	for _, part := range agePart.FindAllStringSubmatch(text, -1) {
		n, unit := saturate(part[1]), units[part[2]]
		if n > int64((math.MaxInt64-sum)/unit) {
			return math.MaxInt64, nil
		}
		sum += time.Duration(n) * unit
	}
	return sum, nil
}

// formatAge writes a duration as parseAge reads it.
func formatAge(d time.Duration) string {
	var b strings.Builder
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if n := d / unit.size; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + unit.name)
			d -= n * unit.size
		}
	}
	if b.Len() == 0 {
		return "0ms"
	}
	return b.String()
}
