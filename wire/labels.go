package wire

import (
	"fmt"
	"slices"
	"strings"
)

// What a node may have and a function may ask for.
const (
	MaxLabels     = 32 // of a node, those that it has by itself included
	MaxSelector   = 16
	maxLabelBytes = 63
)

// ValidLabel reports whether a label's key or value may be s: 1 to 63 letters, digits
// and, not at its ends, any of "-_./".
func ValidLabel(s string) bool {
	if len(s) == 0 || len(s) > maxLabelBytes || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && strings.IndexByte("-_./", s[i]) < 0 {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// ReservedLabels lists the keys of the labels that a node has by itself. The caller may
// keep and change the slice.
func ReservedLabels() []string { return []string{LabelNode, LabelArch, LabelSandbox} }

// CheckLabel says what is wrong with a label that an operator gives a node; nil for
// nothing.
func CheckLabel(key, value string) error {
	switch {
	case !ValidLabel(key):
		return fmt.Errorf("%q is not a label's key; %s", key, LabelRule)
	case slices.Contains(ReservedLabels(), key):
		return fmt.Errorf("every node has the label %q by itself; use another key", key)
	case !ValidLabel(value):
		return fmt.Errorf("%q is not a value for the label %q; %s", value, key, LabelRule)
	}
	return nil
}

// LabelRule tells people what [ValidLabel] takes.
const LabelRule = "use letters, digits and inner -_./, at most 63"

// ShowLabels writes labels as people do, in order: "disk=ssd, zone=a".
func ShowLabels(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for key, value := range labels {
		pairs = append(pairs, key+"="+value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ", ")
}
