package bundle

import (
	"path"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
)

// IgnoreName is the file in a folder's root that lists what [Pack] leaves out.
//
// Its lines are gitignore's: comments (#), *, ? and [a-z] inside a name, \ before a
// sign that stands for itself, ** for any number of folders, a trailing slash for
// folders only, a leading or inner slash to count from the root, and ! to take back in.
// The last line that matches decides; nothing inside a folder that is left out can be
// taken back.
const IgnoreName = ".dayflyignore"

const (
	maxIgnoreBytes = 64 << 10
	maxIgnoreRules = 1000
)

// rule is one line of an ignore file.
type rule struct {
	// parts are matched against the parts of a name; "**" matches any number.
	parts       []string
	keep        bool
	foldersOnly bool
}

// parseIgnore reads an ignore file. A pattern that is malformed is an error, as a line
// that silently matches nothing would leak a file.
func parseIgnore(data []byte) ([]rule, error) {
	var rules []rule
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		line = trimEnd(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(rules) == maxIgnoreRules {
			return nil, invalid("%s:%d: more than %d lines with patterns; use wider ones", IgnoreName, number, maxIgnoreRules)
		}
		r := parseRule(line)
		if len(r.parts) == 0 || slices.Contains(r.parts, "..") {
			return nil, invalid("%s:%d: %s matches nothing; write names inside the folder", IgnoreName, number, quote(line))
		}
		for _, part := range r.parts {
			if _, err := path.Match(part, ""); err != nil {
				return nil, invalid("%s:%d: %s is malformed; close every [ with a ], and end no name with \\", IgnoreName, number, quote(line))
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// trimEnd removes the white space at a line's end, but for a space behind a \.
func trimEnd(line string) string {
	line = strings.TrimRight(line, "\r\n")
	trimmed := strings.TrimRight(line, " \t")
	if strings.HasSuffix(trimmed, "\\") && len(line) > len(trimmed) {
		trimmed += " "
	}
	return trimmed
}

func parseRule(line string) rule {
	var r rule
	line, r.keep = strings.CutPrefix(line, "!")
	line, r.foldersOnly = strings.CutSuffix(line, "/")
	// Go writes the other of the two.
	r.parts = parts(strings.ReplaceAll(line, "[!", "[^"))
	if len(r.parts) == 0 {
		return r
	}
	if !strings.Contains(line, "/") {
		r.parts = append([]string{"**"}, r.parts...)
	}
	// "a/**" is everything in a, but not a.
	if r.parts[len(r.parts)-1] == "**" {
		r.parts = append(r.parts, "*")
	}
	return r
}

// ignored reports whether a name in the folder is left out of the bundle.
func ignored(rules []rule, name string, isFolder bool) bool {
	switch name {
	case functions.ManifestName:
		return false
	case IgnoreName:
		// It has done its work, and must not hide what a build adds.
		return true
	}
	if alwaysIgnored(name) {
		return true
	}
	nameParts := parts(name)
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		if (isFolder || !r.foldersOnly) && matchParts(r.parts, nameParts) {
			return !r.keep
		}
	}
	return false
}

// alwaysIgnored names what is never part of a function, in any folder.
func alwaysIgnored(name string) bool {
	switch path.Base(name) {
	case ".git", ".dayfly", "__pycache__", ".DS_Store":
		return true
	case ".cache":
		return path.Base(path.Dir(name)) == "node_modules"
	}
	return false
}

// matchParts matches a whole name. On a mismatch it lets the last "**" swallow
// one part more, so the work is bounded by the product of both lengths.
func matchParts(pattern, name []string) bool {
	p, n, star, swallowed := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, swallowed = p, n
			p++
		case p < len(pattern) && matchPart(pattern[p], name[n]):
			p++
			n++
		case star >= 0:
			swallowed++
			p, n = star+1, swallowed
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

// matchPart matches one part; malformed patterns were refused.
func matchPart(pattern, part string) bool {
	ok, err := path.Match(pattern, part)
	return ok && err == nil
}
