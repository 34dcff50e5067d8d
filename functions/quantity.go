package functions

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// How quantities are written in a manifest. The JSON schema holds the same
// patterns; a test compares them.
var (
	wholePattern    = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	sizePattern     = regexp.MustCompile(`^(0|[1-9][0-9]*)(Ki|Mi|Gi)?$`)
	cpuPattern      = regexp.MustCompile(`^((0|[1-9][0-9]*)m|(0|[1-9][0-9]*)(\.[0-9]{1,3})?)$`)
	durationPattern = regexp.MustCompile(`^([0-9]+(ms|s|m))+$`)
)

// Each parser below says in its error how the quantity is to be written. A
// number too large to hold becomes the largest there is, so that the check of
// its bounds refuses it.

// parseWhole reads a whole number in decimal.
func parseWhole(text string) (int64, error) {
	if !wholePattern.MatchString(text) {
		return 0, errors.New("is not a whole number")
	}
	return saturate(text), nil
}

// formatWhole writes a whole number in decimal.
func formatWhole(n int64) string { return strconv.FormatInt(n, 10) }

// parseSize reads a size in bytes: 268435456, 256Mi, 1Gi.
func parseSize(text string) (int64, error) {
	if !sizePattern.MatchString(text) {
		return 0, errors.New("is not a size; write it as 256Mi, 1Gi or in plain bytes")
	}
	digits := strings.TrimRight(text, "KMGi")
	n, shift := saturate(digits), map[string]int{"": 0, "Ki": 10, "Mi": 20, "Gi": 30}[text[len(digits):]]
	if n > math.MaxInt64>>shift {
		return math.MaxInt64, nil
	}
	return n << shift, nil
}

// formatSize writes a size in the largest unit that divides it.
func formatSize(bytes int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if bytes != 0 && bytes%unit.bytes == 0 {
			return strconv.FormatInt(bytes/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(bytes, 10)
}

// parseCPU reads thousandths of a core: 250m, 0.25, 2.
func parseCPU(text string) (millis int64, err error) {
	if !cpuPattern.MatchString(text) {
		return 0, errors.New("is not a number of cores; write it as 0.25 (at most three decimals) or 250m")
	}
	if digits, isMillis := strings.CutSuffix(text, "m"); isMillis {
		return saturate(digits), nil
	}
	cores, fraction, _ := strings.Cut(text, ".")
	whole := saturate(cores)
	if whole > math.MaxInt64/1000-1 {
		return math.MaxInt64, nil
	}
	return whole*1000 + saturate((fraction + "000")[:3]), nil
}

// formatCPU writes cores, or thousandths where that is shorter to read.
func formatCPU(millis int64) string {
	if millis%1000 == 0 {
		return strconv.FormatInt(millis/1000, 10)
	}
	return strconv.FormatInt(millis, 10) + "m"
}

// parseDuration reads a duration of whole milliseconds: 500ms, 30s, 1m30s.
func parseDuration(text string) (time.Duration, error) {
	if wholePattern.MatchString(text) {
		return 0, fmt.Errorf("has no unit; write %ss or %sms", text, text)
	}
	if !durationPattern.MatchString(text) {
		return 0, errors.New("is not a duration; write whole numbers with ms, s or m, as 500ms, 30s or 1m30s")
	}
	d, err := time.ParseDuration(text)
	if err != nil { // after the pattern, only an overflow is left
		return math.MaxInt64, nil
	}
	return d, nil
}

// formatDuration writes a duration without units that are zero.
func formatDuration(d time.Duration) string {
	if d%time.Minute == 0 && d != 0 {
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	}
	return d.String()
}

// saturate reads decimal digits; more than an int64 holds become the largest.
func saturate(digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return n
}
