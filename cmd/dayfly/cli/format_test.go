package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 10: "10 KiB", 1<<20 - 1: "1 MiB",
		128 << 20: "128 MiB", 5 << 30: "5 GiB", 3 << 40: "3 TiB", 1 << 60: "1048576 TiB",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestHumanDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 850 * time.Microsecond: "850µs", 1234567: "1.23ms", 12345678: "12.3ms", 1254 * time.Millisecond: "1.25s",
		30 * time.Second: "30s", 125400 * time.Millisecond: "2m5s",
	} {
		if got := humanDuration(d); got != want {
			t.Errorf("humanDuration(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestHumanAge(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", 0: "just now", 59 * time.Second: "59s ago", 90 * time.Second: "1m ago",
		47 * time.Hour: "47h ago", 49 * time.Hour: "2d ago", 400 * 24 * time.Hour: "400d ago",
	} {
		if got := humanAge(now.Add(-d), now); got != want {
			t.Errorf("humanAge(%s) = %q, want %q", d, got, want)
		}
	}
	if got := humanAge(time.Time{}, now); got != "never" {
		t.Errorf("humanAge of no time = %q", got)
	}
}

func TestCheckJSONSaysWhere(t *testing.T) {
	for data, want := range map[string]string{
		"":                      "it is empty",
		" \n":                   "it is empty",
		"{a: 1}":                "line 1, column 2",
		"{\"a\": 1,\n \"é\" 2}": "line 2, column 6",
		"{\"a\": 1,\n":          "line 2, column 1",
		"{} {}":                 "line 1, column 4",
	} {
		err := checkJSON([]byte(data))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("checkJSON(%q) = %v, want %q", data, err, want)
		}
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{"{}", "", "{a", "[1,\n2", "\"\xff\"", "nul"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := checkJSON(data); (err == nil) != json.Valid(data) {
			t.Errorf("checkJSON(%q) = %v", data, err)
		}
	})
}
