package functions

import (
	"regexp"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/wire"
)

// Config is what a function is configured with at run time: it reaches instances that
// run already.
type Config struct {
	// Revision differs after every change; [NoConfigRevision] before the first one.
	Revision string            `json:"revision"`
	Values   map[string]string `json:"values"`
}

// NoConfigRevision is the revision of a function that was never configured.
const NoConfigRevision = "0"

// MaxConfigKeyBytes bounds the name of one value.
const MaxConfigKeyBytes = 128

var configKeyPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// CheckConfig refuses values that no function may be configured with: names that are
// none, text that is no UTF-8, or too much. The error has code invalid or too_large.
func CheckConfig(values map[string]string) error {
	bytes := 0
	for name, value := range values {
		bytes += len(name) + len(value)
		switch {
		case !configKeyPattern.MatchString(name):
			return wire.Errorf(wire.CodeInvalid, "config: %s is not a name; use letters, digits, _, . and -, a letter or _ first", shown(name))
		case len(name) > MaxConfigKeyBytes:
			return wire.Errorf(wire.CodeInvalid, "config: the name %s has %d bytes; at most %d are allowed", shown(name), len(name), MaxConfigKeyBytes)
		case !utf8.ValidString(value):
			return wire.Errorf(wire.CodeInvalid, "config: the value of %s is no UTF-8; encode it, for example in base64", shown(name))
		}
	}
	switch {
	case len(values) > wire.MaxConfigKeys:
		return wire.Errorf(wire.CodeTooLarge, "config: %d values are too many; at most %d are allowed", len(values), wire.MaxConfigKeys)
	case bytes > wire.MaxConfigBytes:
		return wire.Errorf(wire.CodeTooLarge, "config: the values take %d bytes; at most %d are allowed, names and values together", bytes, wire.MaxConfigBytes)
	}
	return nil
}
