package wire_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func TestSettingKeysRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := functionIDs().Draw(t, "function")
		if got, err := wire.ParseConfigKey(wire.ConfigKey(f)); err != nil || got != f {
			t.Fatalf("%+v, %v", got, err)
		}
		name := rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_]{0,9}`).Draw(t, "name")
		key := wire.SecretKey(f, name)
		if got, n, err := wire.ParseSecretKey(key); err != nil || got != f || n != name {
			t.Fatalf("%+v %q, %v", got, n, err)
		}
		if !captures(wire.FunctionSecrets(f), key) {
			t.Fatal(key)
		}
	})
	for _, key := range []string{"", "a", ".", "a.", ".a", "A.b", "a.b.c.d"} {
		if f, err := wire.ParseConfigKey(key); err == nil {
			t.Errorf("%q names %+v", key, f)
		}
	}
	for _, key := range []string{"", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d"} {
		if f, name, err := wire.ParseSecretKey(key); err == nil {
			t.Errorf("%q names %+v %q", key, f, name)
		}
	}
}
