package wire_test

import (
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

func TestCauseOfMessages(t *testing.T) {
	const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")
	headers := map[string][]string{}
	for name, value := range wire.CauseHeaders(id, 3) {
		headers[name] = []string{value}
	}
	if cause, depth := wire.ReadCause(headers); cause != id || depth != 3 {
		t.Errorf("read back %s %d", cause, depth)
	}
	for _, bad := range []map[string][]string{
		nil,
		{"Dayfly-Cause": {string(id)}},
		{"Dayfly-Cause": {string(id)}, "Dayfly-Depth": {"many"}},
		{"Dayfly-Cause": {string(id)}, "Dayfly-Depth": {"-1"}},
		{"Dayfly-Cause": {"x"}, "Dayfly-Depth": {"1"}},
		{"Dayfly-Cause": {}, "Dayfly-Depth": {"1"}},
	} {
		if cause, depth := wire.ReadCause(bad); cause != "" || depth != 0 {
			t.Errorf("%v: %s %d", bad, cause, depth)
		}
	}
}
