package command

import (
	"errors"
	"flag"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args string
		want string // of the error; empty for none
	}{
		{"-n 3", ""},
		{"-n x", "see -help"},
		{"-m 3", "see -help"},
		{"-n 3 fast", `"fast": there are no arguments`},
	} {
		var help strings.Builder
		flags := flag.NewFlagSet("bench", flag.ContinueOnError)
		n := flags.Int("n", 1, "rounds")
		err := Parse(flags, strings.Fields(test.args), &help)
		if test.want == "" && (err != nil || *n != 3) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.args, err, test.want)
		}
		if help.Len() > 0 {
			t.Errorf("%s: the error is printed twice: %s", test.args, &help)
		}
	}
}

func TestHelp(t *testing.T) {
	var help, printed strings.Builder
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.Int("n", 1, "how many rounds")
	err := Parse(flags, []string{"-help"}, &help)
	if !errors.Is(err, flag.ErrHelp) || strings.Count(help.String(), "how many rounds") != 1 {
		t.Errorf("%v, %q", err, &help)
	}
	if code := report("bench", &printed, err); code != 0 || printed.Len() > 0 {
		t.Errorf("help is code %d, %q", code, &printed)
	}
	if code := report("bench", &printed, errors.New("the disk is full")); code != 1 || printed.String() != "bench: the disk is full\n" {
		t.Errorf("code %d, %q", code, &printed)
	}
}
