package wire

import "strings"

// MaxSubjectBytes bounds a subject of a user's.
const MaxSubjectBytes = 255

// ValidSubject reports whether a message can be published on a NATS subject.
func ValidSubject(s string) bool {
	return ValidFilter(s) && !strings.Contains("."+s+".", ".*.") && !strings.HasSuffix(s, ">")
}

// ValidFilter reports whether a NATS subject can be listened to: tokens with dots
// between them, where * stands for a token and a > at the end for one or more.
func ValidFilter(s string) bool {
	if s == "" || len(s) > MaxSubjectBytes {
		return false
	}
	tokens := strings.Split(s, ".")
	for i, token := range tokens {
		switch {
		case token == "*" || token == ">" && i == len(tokens)-1:
		case token == "" || strings.ContainsAny(token, "*>\x7f") || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' }):
			return false
		}
	}
	return true
}

// Covers reports whether a filter matches all that another one, or a subject, matches.
func Covers(filter, other string) bool {
	for {
		f, filterRest, filterMore := strings.Cut(filter, ".")
		o, otherRest, otherMore := strings.Cut(other, ".")
		switch {
		case f == ">":
			return true
		case o == ">" || f != "*" && f != o || filterMore != otherMore && filterRest != ">":
			return false
		case !filterMore:
			return !otherMore
		case !otherMore:
			return false // a > wants a token of its own
		}
		filter, other = filterRest, otherRest
	}
}

// Overlap reports whether some subject matches both filters.
func Overlap(a, b string) bool {
	for {
		x, restA, moreA := strings.Cut(a, ".")
		y, restB, moreB := strings.Cut(b, ".")
		switch {
		case x == ">" || y == ">":
			return true
		case x != "*" && y != "*" && x != y || moreA != moreB:
			return false
		case !moreA:
			return true
		}
		a, b = restA, restB
	}
}

// Union returns filters of which no two overlap, as a stream wants them, and which
// match all that the given ones match. Where two overlap and neither covers the other,
// one that covers both takes their place, which may match more.
func Union(filters []string) []string {
	var union []string
	for _, filter := range filters {
		// What a filter swallows makes it broader, so that the others are asked again.
		for i := 0; i < len(union); {
			if !Overlap(union[i], filter) {
				i++
				continue
			}
			filter = generalise(union[i], filter)
			union = append(union[:i:i], union[i+1:]...)
			i = 0
		}
		union = append(union, filter)
	}
	return union
}

// generalise returns the narrowest filter that covers two which overlap.
func generalise(a, b string) string {
	var tokens []string
	for moreA, moreB := true, true; moreA && moreB; {
		var x, y string
		x, a, moreA = strings.Cut(a, ".")
		y, b, moreB = strings.Cut(b, ".")
		switch {
		case x == ">" || y == ">":
			return strings.Join(append(tokens, ">"), ".")
		case x == y:
			tokens = append(tokens, x)
		default:
			tokens = append(tokens, "*")
		}
	}
	return strings.Join(tokens, ".")
}
