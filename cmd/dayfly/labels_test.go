package main

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly/wire"
)

func TestLabels(t *testing.T) {
	many := make([]string, 30)
	for i := range many {
		many[i] = fmt.Sprintf("k%d=v", i)
	}
	for _, test := range []struct {
		labels []string
		zone   string
		want   map[string]string
		fails  string
	}{
		{want: map[string]string{}},
		{labels: []string{"disk=ssd", "rack=r1", "disk=ssd"}, zone: "a", want: map[string]string{"disk": "ssd", "rack": "r1", "zone": "a"}},
		{labels: []string{"zone=a"}, zone: "a", want: map[string]string{"zone": "a"}},
		{labels: []string{"ssd"}, fails: "--label ssd: write key=value, as in --label disk=ssd"},
		{labels: []string{"arch=arm64"}, fails: `--label arch=arm64: every node has the label "arch" by itself; use another key`},
		{labels: []string{"disk=a=b"}, fails: `--label disk=a=b: "a=b" is not a value for the label "disk"; use letters, digits and inner -_./, at most 63`},
		{labels: []string{"disk=ssd", "disk=hdd"}, fails: "--label disk=hdd: the node has disk=ssd already; a label has one value"},
		{zone: "a b", fails: `--zone a b: "a b" is not a value for the label "zone"; use letters, digits and inner -_./, at most 63`},
		{labels: []string{"zone=b"}, zone: "a", fails: "--zone a: --label zone=b says another; give one of the two"},
		{labels: many, fails: "--label: 30 labels are too many; at most 29 are allowed"},
	} {
		got, err := (&config{Labels: test.labels, Zone: test.zone}).labels()
		said := ""
		if err != nil {
			said = wire.AsError(err).Message
		}
		if diff := cmp.Diff(test.want, got); said != test.fails || diff != "" {
			t.Errorf("%v, %q: %q, want %q; %s", test.labels, test.zone, said, test.fails, diff)
		}
	}
}

// Flags may be repeated, and the environment separates by commas.
func TestLabelFlags(t *testing.T) {
	parse := func(args ...string) []string {
		var cfg config
		command := &cobra.Command{Use: "invoker"}
		cfg.invokerFlags(command.Flags())
		if err := command.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		if err := fromEnvironment(command); err != nil {
			t.Fatal(err)
		}
		return cfg.Labels
	}
	if diff := cmp.Diff([]string{"a=1", "b=2"}, parse("--label", "a=1", "--label", "b=2")); diff != "" {
		t.Error(diff)
	}
	t.Setenv("DAYFLY_LABEL", "c=3,d=4")
	if diff := cmp.Diff([]string{"c=3", "d=4"}, parse()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a=1"}, parse("--label", "a=1")); diff != "" {
		t.Error(diff)
	}
}
