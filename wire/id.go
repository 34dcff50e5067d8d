package wire

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Identifiers are distinct string types so that the compiler catches a mix-up.
type (
	// InvocationID names one event given to one function: a UUIDv7, so that
	// IDs sort by time.
	InvocationID string
	// NodeID names a machine with an invoker; it survives restarts.
	NodeID string
	// InstanceID names one container.
	InstanceID string
	// LeaseID names resources that the scheduler set aside on a node.
	LeaseID string
	// Digest is a lower-case hexadecimal SHA-256 of an object's bytes.
	Digest string
)

const (
	// DefaultNamespace is the namespace of a reference that names none.
	DefaultNamespace = "default"
	// LiveAlias is what a reference that names no version or alias means.
	LiveAlias = "live"
)

var (
	namePattern       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	digestPattern     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	invocationPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

// ValidName reports whether s may name a function, namespace or alias.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// Valid reports whether d is a lower-case hexadecimal SHA-256.
func (d Digest) Valid() bool { return digestPattern.MatchString(string(d)) }

// Valid reports whether id has the form of a UUID.
func (id InvocationID) Valid() bool { return invocationPattern.MatchString(string(id)) }

// FunctionID names a function: a name in a namespace.
type FunctionID struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns name.namespace, without the default namespace.
func (f FunctionID) String() string {
	if f.Namespace == DefaultNamespace {
		return f.Name
	}
	return f.Name + "." + f.Namespace
}

// VersionID names one immutable version of a function.
type VersionID struct {
	FunctionID
	Number int `json:"number"`
}

// String returns name.namespace:number.
func (v VersionID) String() string { return v.FunctionID.String() + ":" + strconv.Itoa(v.Number) }

// Compare orders versions by namespace, name and number, as [cmp.Compare] does.
func (v VersionID) Compare(o VersionID) int {
	return cmp.Or(cmp.Compare(v.Namespace, o.Namespace), cmp.Compare(v.Name, o.Name), cmp.Compare(v.Number, o.Number))
}

// Ref is how people and programs refer to a function:
// name[.namespace][:version-or-alias].
type Ref struct {
	FunctionID
	// Qualifier is a version number or an alias; never empty.
	Qualifier string
}

// ErrRef is wrapped by every error of [ParseRef].
var ErrRef = errors.New("malformed function reference")

// ParseRef reads name[.namespace][:version-or-alias] and fills in the default
// namespace and the live alias. Its errors wrap [ErrRef] and say what to change.
func ParseRef(s string) (Ref, error) {
	const rule = "use lower-case letters, digits and inner hyphens, at most 63"
	base, qualifier, qualified := strings.Cut(s, ":")
	name, namespace, namespaced := strings.Cut(base, ".")
	if !namespaced {
		namespace = DefaultNamespace
	}
	if !qualified {
		qualifier = LiveAlias
	}
	for _, part := range []struct{ what, value string }{
		{"name", name}, {"namespace", namespace}, {"version or alias", qualifier},
	} {
		if !ValidName(part.value) {
			return Ref{}, fmt.Errorf("%w %q: %s %q is not valid: %s", ErrRef, s, part.what, part.value, rule)
		}
	}
	return Ref{FunctionID: FunctionID{Namespace: namespace, Name: name}, Qualifier: qualifier}, nil
}

// Version returns the version number that the qualifier names, if it names one
// rather than an alias.
func (r Ref) Version() (number int, ok bool) {
	n, err := strconv.Atoi(r.Qualifier)
	return n, err == nil && n > 0
}

// String returns the shortest text that [ParseRef] reads back as r.
func (r Ref) String() string {
	if r.Qualifier == LiveAlias {
		return r.FunctionID.String()
	}
	return r.FunctionID.String() + ":" + r.Qualifier
}
