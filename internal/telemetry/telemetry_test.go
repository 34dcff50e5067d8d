package telemetry_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/telemetry"
)

func TestNewLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, "info", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("left out")
	log.Info("kept", telemetry.KeyInvocation, "i")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "kept" || line["invocation"] != "i" {
		t.Errorf("%s: %v", &out, err)
	}
	out.Reset()
	if log, err = telemetry.NewLogger(&out, "debug", "text"); err != nil {
		t.Fatal(err)
	}
	log.Debug("kept")
	if !strings.Contains(out.String(), "msg=kept") {
		t.Errorf("%s", &out)
	}
}

func TestBadNames(t *testing.T) {
	for _, test := range [][3]string{
		{"loud", "text", `"loud": use debug, info, warn or error`},
		{"", "text", `use debug, info, warn or error`},
		{"info", "xml", `"xml": use text or json`},
	} {
		if _, err := telemetry.NewLogger(&bytes.Buffer{}, test[0], test[1]); err == nil || !strings.Contains(err.Error(), test[2]) {
			t.Errorf("%q: %v", test, err)
		}
	}
}
