package bundle

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxNameBytes = 4096
	// maxTargetBytes is what the kernel keeps of a symbolic link.
	maxTargetBytes = 4095
	// maxPartBytes bounds what stands between two slashes.
	maxPartBytes = 255
	// maxNameParts bounds how deep folders nest, and so the work for each name.
	maxNameParts = 128
	// maxLinkHops is how many links the kernel follows for one path.
	maxLinkHops = 40
	// maxLinkSteps bounds the work of checking all links of a bundle.
	maxLinkSteps = 2_000_000
)

// cleanName checks the name of an entry and returns it without "./" and
// doubled slashes; "." is the bundle's own folder.
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", invalid("the bundle holds an entry without a name; pack it again")
	case len(name) > maxNameBytes:
		return "", invalid("entry %s: the name has %d bytes; at most %d are allowed", quote(name), len(name), maxNameBytes)
	case !utf8.ValidString(name):
		return "", invalid("entry %s: the name is not UTF-8; rename it", quote(name))
	case strings.ContainsAny(name, "\x00\\"):
		return "", invalid("entry %s: names cannot hold a backslash or NUL; rename it", quote(name))
	case strings.HasPrefix(name, "/"):
		return "", invalid("entry %s: the name is absolute; pack the folder with relative names", quote(name))
	case strings.Count(name, "/") >= maxNameParts:
		return "", invalid("entry %s: folders nest more than %d deep; make them flatter", quote(name), maxNameParts)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", invalid("entry %s: the name holds \"..\"; pack the folder with names inside it", quote(name))
		}
		if len(part) > maxPartBytes {
			return "", invalid("entry %s: %s has %d bytes; at most %d are allowed between slashes", quote(name), quote(part), len(part), maxPartBytes)
		}
	}
	return path.Clean(name), nil
}

// checkTarget checks what can be said of a link's target by itself.
func checkTarget(name, target string) error {
	switch {
	case target == "" || len(target) > maxTargetBytes:
		return invalid("link %s: its target has %d bytes; 1 to %d are allowed", quote(name), len(target), maxTargetBytes)
	case !utf8.ValidString(target):
		return invalid("link %s: its target %s is not UTF-8; rename it", quote(name), quote(target))
	case strings.ContainsAny(target, "\x00\\"):
		return invalid("link %s: its target %s holds a backslash or NUL; rename it", quote(name), quote(target))
	case strings.HasPrefix(target, "/"):
		return leavesFolder(name, target)
	}
	return nil
}

func leavesFolder(name, target string) error {
	return invalid("link %s points to %s, outside the folder; use a relative link inside it, or put the file itself there", quote(name), quote(target))
}

// links holds the symbolic links of a bundle: name to target.
type links map[string]string

// check reports the first link, by the order of names, that leaves the bundle,
// by itself or by way of others.
func (l links) check(names []string) error {
	steps := 0
	for _, name := range names {
		if err := l.follow(name, &steps); err != nil {
			return err
		}
	}
	return nil
}

// follow walks a link as the kernel would, with the bundle as the whole world,
// and refuses to climb out of it. Parts that do not exist count as folders.
func (l links) follow(name string, steps *int) error {
	target := l[name]
	at := parts(path.Dir(name))
	todo, hops := parts(target), 0
	for len(todo) > 0 {
		if *steps++; *steps > maxLinkSteps {
			return invalid("link %s: the links of this bundle are too many and too long to follow; use fewer", quote(name))
		}
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			if len(at) == 0 {
				return leavesFolder(name, target)
			}
			at = at[:len(at)-1]
			continue
		}
		next, isLink := l[strings.Join(append(at, part), "/")]
		if !isLink {
			at = append(at, part)
			continue
		}
		if hops++; hops > maxLinkHops {
			return invalid("link %s points to %s, which goes in a circle or through more than %d links; point it at the file", quote(name), quote(target), maxLinkHops)
		}
		todo = append(parts(next), todo...)
	}
	return nil
}

// parts splits a slash-separated path; "." and doubled slashes vanish.
func parts(name string) []string {
	all := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	return slices.DeleteFunc(all, func(part string) bool { return part == "." })
}
