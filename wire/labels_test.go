package wire_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func TestValidLabelIsThePattern(t *testing.T) {
	pattern := regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9_./]{0,61}[a-zA-Z0-9])?$`)
	check := func(t rapid.TB, s string) {
		if got, want := wire.ValidLabel(s), pattern.MatchString(s) && !strings.HasSuffix(s, "\n"); got != want {
			t.Errorf("ValidLabel(%q) is %t", s, got)
		}
	}
	for _, s := range []string{"", "a", "-", "a-", "-a", "a-b", "a\n", "ä", strings.Repeat("a", 63), strings.Repeat("a", 64), "topology.example/rack_1"} {
		check(t, s)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.StringMatching(`[-a-zA-Z0-9_./ =]{0,66}`).Draw(t, "s")) })
}

func TestCheckLabel(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{"disk", "ssd", ""},
		{"zone", "b", ""},
		{"arch", "arm64", `every node has the label "arch" by itself; use another key`},
		{"a b", "x", `"a b" is not a label's key; use letters, digits and inner -_./, at most 63`},
		{"disk", "", `"" is not a value for the label "disk"; use letters, digits and inner -_./, at most 63`},
	} {
		got := ""
		if err := wire.CheckLabel(test.key, test.value); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s=%s: %q, want %q", test.key, test.value, got, test.want)
		}
	}
}

func TestShowLabels(t *testing.T) {
	if got := wire.ShowLabels(map[string]string{"zone": "a", "disk": "ssd"}); got != "disk=ssd, zone=a" {
		t.Error(got)
	}
}
