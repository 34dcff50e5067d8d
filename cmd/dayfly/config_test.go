package main

import (
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

func TestNameAfter(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 60)
	for host, want := range map[string]string{
		"web1":                   "web1",
		"Web_1.example.com":      "web-1-example-com",
		"-odd-":                  "odd",
		"日本":                     "",
		long + ".example.com":    long + "-ex",
		long + "-b-.example.com": long + "-b",
	} {
		got := nameAfter(host, maxName)
		if got != want || got != "" && !wire.ValidName(got) {
			t.Errorf("%q becomes %q, want %q", host, got, want)
		}
	}
}
