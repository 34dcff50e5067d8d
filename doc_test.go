package dayfly_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	linkPattern   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	makePattern   = regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
	targetPattern = regexp.MustCompile(`(?m)^([a-z-]+):.*## `)
)

// documents returns the text of every tracked Markdown file by its path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "-co", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	found := map[string]string{}
	for file := range strings.FieldsSeq(string(out)) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found[file] = string(text)
	}
	return found
}

// TestDocumentLinks checks that links inside the repository lead somewhere.
func TestDocumentLinks(t *testing.T) {
	t.Parallel()
	for file, text := range documents(t) {
		for _, match := range linkPattern.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(match[1], "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), target)); err != nil {
				t.Errorf("%s links to %s: %v", file, target, err)
			}
		}
	}
}

// TestDocumentTargets checks that every make target a document names exists,
// and that `make help` lists all of them.
func TestDocumentTargets(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, match := range targetPattern.FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, match[1])
	}
	if len(targets) == 0 {
		t.Fatal("the Makefile has no described target")
	}
	for file, text := range documents(t) {
		for _, match := range makePattern.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(targets, match[1]) {
				t.Errorf("%s names make %s, which the Makefile does not have", file, match[1])
			}
		}
	}
	help, err := exec.CommandContext(t.Context(), "make", "--no-print-directory", "help").Output()
	if err != nil {
		t.Fatalf("make help: %v", err)
	}
	for _, target := range targets {
		if !strings.Contains(string(help), "make "+target+" ") {
			t.Errorf("make help does not list %s", target)
		}
	}
}
