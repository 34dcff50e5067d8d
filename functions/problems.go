package functions

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxProblems bounds how many problems one error lists.
	maxProblems = 25
	// maxProblemBytes is where the text of one problem is cut; none of ours is
	// as long, but a key in it may be.
	maxProblemBytes = 400
	// maxShownBytes is where a value that an error quotes is cut.
	maxShownBytes = 60
)

// problems collects what is wrong with a manifest, so that its author sees all
// of it at once.
type problems []problem

type problem struct {
	line int
	text string
}

func (p *problems) add(line int, format string, args ...any) {
	*p = append(*p, problem{line: max(line, 1), text: cut(fmt.Sprintf(format, args...), maxProblemBytes)})
}

// err returns nil, or one error with a line of text for each problem, from the
// top of the file to its end.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	sorted := slices.Clone(p)
	slices.SortStableFunc(sorted, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var lines []string
	for _, one := range sorted[:min(len(sorted), maxProblems)] {
		lines = append(lines, ManifestName+":"+strconv.Itoa(one.line)+": "+one.text)
	}
	if more := len(sorted) - maxProblems; more > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more problems", ManifestName, more))
	}
	return wire.Errorf(wire.CodeInvalid, "%s", strings.Join(lines, "\n"))
}

// shown quotes a user's text for an error, on one line and at a bounded length.
func shown(s string) string {
	return strconv.Quote(cut(s, maxShownBytes))
}

// cut shortens s to so many bytes and marks where.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// oneOf writes choices as people do: "a, b or c".
func oneOf(choices []string) string {
	if len(choices) < 2 {
		return strings.Join(choices, "")
	}
	last := len(choices) - 1
	return strings.Join(choices[:last], ", ") + " or " + choices[last]
}

// suggestion ends an error about an unknown word: the known one that was
// probably meant, or all of them.
func suggestion(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return "no keys belong there, remove it"
	}
	return "use " + oneOf(known)
}
