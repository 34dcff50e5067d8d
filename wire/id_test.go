package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func ref(namespace, name, qualifier string) wire.Ref {
	return wire.Ref{FunctionID: wire.FunctionID{Namespace: namespace, Name: name}, Qualifier: qualifier}
}

func TestParseRef(t *testing.T) {
	long := strings.Repeat("a", 63)
	for text, test := range map[string]struct {
		want    wire.Ref
		written string // empty: as it was
		version int
	}{
		"resize":                       {want: ref("default", "resize", "live")},
		"resize.team-a":                {want: ref("team-a", "resize", "live")},
		"resize:3":                     {want: ref("default", "resize", "3"), version: 3},
		"resize.team-a:beta":           {want: ref("team-a", "resize", "beta")},
		"resize.default:live":          {want: ref("default", "resize", "live"), written: "resize"},
		"resize.default":               {want: ref("default", "resize", "live"), written: "resize"},
		"0":                            {want: ref("default", "0", "live")},
		"a:0":                          {want: ref("default", "a", "0")},
		"a:1a":                         {want: ref("default", "a", "1a")},
		long + "." + long + ":" + long: {want: ref(long, long, long)},
	} {
		got, err := wire.ParseRef(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		written := test.written
		if written == "" {
			written = text
		}
		if got.String() != written {
			t.Errorf("%s is written %s, want %s", text, got, written)
		}
		if n, ok := got.Version(); n != test.version || ok != (test.version > 0) {
			t.Errorf("%s: version %d, %t", text, n, ok)
		}
	}
}

func TestParseRefRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                      `name ""`,
		"Resize":                `name "Resize"`,
		"re_size":               `name "re_size"`,
		"-a":                    `name "-a"`,
		"a-":                    `name "a-"`,
		"a.":                    `namespace ""`,
		".a":                    `name ""`,
		"a.b.c":                 `namespace "b.c"`,
		"a:":                    `version or alias ""`,
		"a:b:c":                 `version or alias "b:c"`,
		":live":                 `name ""`,
		"a/b":                   `name "a/b"`,
		"../x":                  `name ""`,
		"a\n":                   `name "a\n"`,
		"ä":                     `name "ä"`,
		strings.Repeat("a", 64): "at most 63",
		"a:" + "9" + ".9":       `version or alias "9.9"`,
		"a.*":                   `namespace "*"`,
		"a.>":                   `namespace ">"`,
	} {
		got, err := wire.ParseRef(text)
		if !errors.Is(err, wire.ErrRef) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "use lower-case") {
			t.Errorf("ParseRef(%q) = %v, %v; want ErrRef with %s", text, got, err, want)
		}
	}
}

// FuzzParseRef: whatever is read is written so that it is read again as the same.
func FuzzParseRef(f *testing.F) {
	for _, seed := range []string{"resize.team-a:3", "a", "a.default:live", "a:b:c", "", "a.b.c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := wire.ParseRef(text)
		if err != nil {
			if !errors.Is(err, wire.ErrRef) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := wire.ParseRef(got.String())
		if err != nil || again != got {
			t.Errorf("%q: %v, again %v, %v", text, got, again, err)
		}
		// Each part stands in NATS subjects and S3 keys as it is.
		for _, part := range []string{got.Namespace, got.Name, got.Qualifier} {
			if strings.ContainsAny(part, ".*>/ \t\n") || part == "" {
				t.Errorf("%q has the part %q", text, part)
			}
		}
	})
}

func names() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`)
}

func functionIDs() *rapid.Generator[wire.FunctionID] {
	return rapid.Custom(func(t *rapid.T) wire.FunctionID {
		return wire.FunctionID{Namespace: names().Draw(t, "namespace"), Name: names().Draw(t, "name")}
	})
}

func TestRefsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := wire.Ref{FunctionID: functionIDs().Draw(t, "function"), Qualifier: names().Draw(t, "qualifier")}
		got, err := wire.ParseRef(want.String())
		if err != nil || got != want {
			t.Fatalf("%s: %+v, %v", want, got, err)
		}
	})
}

func TestIdentifiers(t *testing.T) {
	for id, want := range map[wire.InvocationID]bool{
		"01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6": true, "": false, "01998C2E-7D5A-7C11-9F00-3A5BE1C2D4F6": false,
		"01998c2e7d5a7c119f003a5be1c2d4f6": false, "../../x": false, "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6\n": false,
	} {
		if id.Valid() != want {
			t.Errorf("%q valid: %t", id, !want)
		}
	}
	for d, want := range map[wire.Digest]bool{
		wire.Digest(strings.Repeat("0a", 32)): true, wire.Digest(strings.Repeat("0A", 32)): false, "": false, wire.Digest(strings.Repeat("0", 63)): false,
	} {
		if d.Valid() != want {
			t.Errorf("%q valid: %t", d, !want)
		}
	}
	v := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "team-a", Name: "x"}, Number: 7}
	if v.String() != "x.team-a:7" {
		t.Errorf("written %s", v)
	}
}
