package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// entryOf publishes a log entry as a node does.
func (w *world) entryOf(version int, instance wire.InstanceID, text string) {
	w.t.Helper()
	id := invocation(version)
	w.stored(wire.LogSubject(hello, id), wire.LogEntry{
		Invocation: id, Version: wire.VersionID{FunctionID: hello, Number: version}, Instance: instance, Time: time.Now(), Text: text, Last: true,
	})
}

// TestLogFilters: what does not fit is not sent, and a tail counts what fits.
func TestLogFilters(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	w.deployed(hello)
	w.entryOf(1, "i-aa", "one\n{\"level\":\"warn\",\"msg\":\"two\"}\n")
	w.entryOf(1, "i-bb", "ERROR three\nfour\n")
	w.entryOf(2, "i-cc", "")
	w.entryOf(2, "i-cc", "five two\n")
	for query, want := range map[string][]string{
		"?level=warn":              {"{\"level\":\"warn\",\"msg\":\"two\"}\n", "ERROR three\n"},
		"?level=error":             {"ERROR three\n"},
		"?level=ERROR&tail=0":      nil,
		"?contains=two":            {"{\"level\":\"warn\",\"msg\":\"two\"}\n", "five two\n"},
		"?contains=two&tail=1":     {"five two\n"},
		"?contains=two&level=warn": {"{\"level\":\"warn\",\"msg\":\"two\"}\n"},
		"?contains=six":            nil,
		"?version=2":               {"five two\n"},
		"?instance=i-b":            {"ERROR three\nfour\n"},
		"?after=1":                 {"ERROR three\nfour\n", "", "five two\n"},
		"?after=1&contains=two":    {"five two\n"},
		"?since=1h&level=error":    {"ERROR three\n"},
		"?since=1h&tail=1":         {"five two\n"},
		"?since=2020-01-01T00:00:00%2B02:00&tail=1": {"five two\n"},
		// An end is told where one invocation is asked for.
		"?level=error&invocation=" + string(invocation(2)): {"", ""},
	} {
		if diff := cmp.Diff(want, texts(t, w.ask(http.MethodGet, "/v1/functions/hello/logs"+query, nil).Body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	if got := texts(t, w.ask(http.MethodGet, "/v1/functions/hello:2/logs", nil).Body); !cmp.Equal(got, []string{"five two\n"}) {
		t.Errorf("of version 2: %q", got)
	}
	for query, text := range map[string]string{
		"?level=loud": "use debug, info, warn or error", "?version=0": "the number of a version", "?version=live": "the number of a version",
		"?since=yesterday": "use a duration as 10m", "?since=-1m": "use a duration as 10m", "?after=x": "the sequence of an entry",
	} {
		wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello/logs"+query, nil), 400, wire.CodeInvalid, text)
	}
}

// TestLogsGoOn: who lost the connection goes on behind the last entry, and what is sent
// is what was stored.
func TestLogsGoOn(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	for n := range 5 {
		w.entryOf(1, "i", fmt.Sprint(n))
	}
	read := func(query string) (entries []wire.LogEntry) {
		for line := range strings.Lines(w.ask(http.MethodGet, "/v1/functions/hello/logs"+query, nil).Body.String()) {
			var e wire.LogEntry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Version.Number != 1 || e.Instance != "i" || !e.Last || e.Time.IsZero() {
				t.Errorf("entry %+v", e)
			}
			entries = append(entries, e)
		}
		return entries
	}
	first := read("?tail=3")
	if len(first) != 3 || first[0].Text != "2" {
		t.Fatalf("the tail: %v", first)
	}
	w.entryOf(1, "i", "5")
	rest := read(fmt.Sprintf("?tail=1&after=%d", first[1].Sequence))
	if len(rest) != 2 || rest[0].Text != "4" || rest[1].Text != "5" {
		t.Errorf("behind the second: %v", rest)
	}
}

// TestHeldLogIsBounded: the newest are kept, however large they are.
func TestHeldLogIsBounded(t *testing.T) {
	var got []string
	l := logWriter{most: 2, write: func(line []byte) error { got = append(got, string(line)); return nil }}
	large := strings.Repeat("x", maxHeldLog/2)
	l.held, l.heldBytes = [][]byte{[]byte(large)}, len(large)
	for n, text := range []string{large, "2", "3"} {
		data, err := json.Marshal(wire.LogEntry{Text: text})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.take(bus.StreamMsg{Sequence: uint64(n + 1), Data: data, Left: uint64(2 - n)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 2 || !strings.Contains(got[0], `"2"`) || !strings.Contains(got[1], `"sequence":3`) || l.held != nil {
		t.Errorf("%d written", len(got))
	}
}
