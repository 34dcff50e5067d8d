package functions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// TestSecretsHideThemselves: no way of printing, logging or encoding shows a value.
func TestSecretsHideThemselves(t *testing.T) {
	const value = "hunter2-0xbeef"
	s := NewSecret(value)
	outer := struct{ Public, private any }{s, s}
	nested := struct {
		s Secret
		m map[string]Secret
	}{s, map[string]Secret{"A": s}}
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("x", "secret", s, "outer", outer, "nested", nested, "all", []Secret{s}, "pointer", &s)
	}
	encoded, err := json.Marshal(map[string]any{"a": s, "b": &s, "c": []Secret{s}, "d": map[string]Secret{"x": s}, "e": outer})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{log.String(), string(encoded)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb+verb+verb+verb, s, &s, outer, nested))
	}
	for _, text := range texts {
		for _, shape := range []string{value, fmt.Sprintf("%x", value)} {
			if strings.Contains(text, shape) {
				t.Errorf("%s is in %s", shape, text)
			}
		}
	}
	if s.Reveal() != value || (Secret{}).Reveal() != "" || !s.Equal(NewSecret(value)) || s.Equal(Secret{}) {
		t.Error("a secret is not what it was made of")
	}
}

func TestCheckSecretName(t *testing.T) {
	for name, good := range map[string]bool{
		"API_TOKEN": true, "a": true, "_x1": true, "": false, "1A": false, "A-B": false, "A.B": false, "A/B": false, "DAYFLY_X": false,
		"_HANDLER": false, strings.Repeat("A", MaxSecretNameBytes): true, strings.Repeat("A", MaxSecretNameBytes+1): false,
	} {
		if err := CheckSecretName(name); (err == nil) != good || err != nil && !wire.HasCode(err, wire.CodeInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
