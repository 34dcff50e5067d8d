package runtimes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// debianKeyring signs Debian's own archives.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// aptSource is one archive that a host's apt is configured to use.
type aptSource struct {
	uri, suite string
}

// hostMirrors returns the apt lines, for [Suite] and its updates, of the mirrors
// that the host below etcApt (/etc/apt) uses for itself. It returns none when
// the host has no Debian mirror for the suite.
func hostMirrors(etcApt string) ([]string, error) {
	paths := []string{filepath.Join(etcApt, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		found, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", pattern))
		if err != nil {
			return nil, fmt.Errorf("look for apt sources: %w", err)
		}
		paths = append(paths, found...)
	}
	var sources []aptSource
	for _, path := range paths {
		content, err := os.ReadFile(path)
		switch {
		case os.IsNotExist(err):
		case err != nil:
			return nil, fmt.Errorf("read apt sources: %w", err)
		case strings.HasSuffix(path, ".sources"):
			sources = append(sources, parseDeb822(string(content))...)
		default:
			sources = append(sources, parseOneLine(string(content))...)
		}
	}
	return mirrorLines(sources), nil
}

// mirrorLines picks the first archive of the suite and of each of its updates.
// Without the suite itself there is nothing to pick.
func mirrorLines(sources []aptSource) []string {
	signedBy := ""
	if _, err := os.Stat(debianKeyring); err == nil {
		signedBy = "[signed-by=" + debianKeyring + "] "
	}
	var lines []string
	for _, suite := range []string{Suite, Suite + "-updates", Suite + "-security"} {
		i := slices.IndexFunc(sources, func(s aptSource) bool { return s.suite == suite })
		if i < 0 {
			if suite == Suite {
				return nil
			}
			continue
		}
		lines = append(lines, "deb "+signedBy+sources[i].uri+" "+suite+" main")
	}
	return lines
}

// parseOneLine reads sources.list(5): deb [options] uri suite component…
func parseOneLine(content string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "deb" {
			continue
		}
		var options string
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
			options, rest, _ = strings.Cut(rest, "]")
		}
		signedBy := ""
		for option := range strings.FieldsSeq(strings.TrimPrefix(options, "[")) {
			if key, value, _ := strings.Cut(option, "="); strings.EqualFold(key, "signed-by") {
				signedBy = value
			}
		}
		if fields := strings.Fields(rest); len(fields) >= 3 {
			sources = appendDebian(sources, fields[:1], fields[1:2], fields[2:], signedBy)
		}
	}
	return sources
}

// parseDeb822 reads the stanzas of a .sources file.
func parseDeb822(content string) []aptSource {
	var sources []aptSource
	fields, key := map[string]string{}, ""
	flush := func() {
		if slices.Contains(strings.Fields(fields["types"]), "deb") && !strings.EqualFold(fields["enabled"], "no") {
			sources = appendDebian(sources, strings.Fields(fields["uris"]), strings.Fields(fields["suites"]),
				strings.Fields(fields["components"]), strings.TrimSpace(fields["signed-by"]))
		}
		fields, key = map[string]string{}, ""
	}
	for line := range strings.Lines(content) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[key] += " " + strings.TrimSpace(line)
		default:
			name, value, _ := strings.Cut(line, ":")
			key = strings.ToLower(strings.TrimSpace(name))
			fields[key] = strings.TrimSpace(value)
		}
	}
	flush()
	return sources
}

// appendDebian adds the archives that are Debian's own. Others call their suites
// by Debian's names too, but they have a main component and a key of their own.
func appendDebian(sources []aptSource, uris, suites, components []string, signedBy string) []aptSource {
	if !slices.Contains(components, "main") || (signedBy != "" && !strings.Contains(signedBy, "debian-archive")) {
		return sources
	}
	for _, uri := range uris {
		if strings.HasPrefix(uri, "cdrom:") {
			continue
		}
		for _, suite := range suites {
			sources = append(sources, aptSource{uri, suite})
		}
	}
	return sources
}
