package bus_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
)

func TestSubjectsFrom(t *testing.T) {
	conn := openStream(t, logs)
	if page, err := conn.SubjectsFrom(t.Context(), "logs", "log.>", 0); err != nil || len(page.Subjects)+page.Total > 0 {
		t.Errorf("an empty stream: %+v, %v", page, err)
	}
	store(t, conn, "log.b.x", "1")
	store(t, conn, "log.a.x", "2", "3")
	store(t, conn, "log.a.y", "4")
	begun := time.Now()
	for offset, want := range [][]string{{"log.a.x", "log.b.x"}, {"log.b.x"}, nil} {
		page, err := conn.SubjectsFrom(t.Context(), "logs", "log.*.x", offset)
		if err != nil || page.Total != 2 || !slices.Equal(slices.Sorted(maps.Keys(page.Subjects)), want) {
			t.Errorf("from %d: %+v, %v", offset, page, err)
		}
		if page.At.Before(begun) || page.At.After(time.Now()) {
			t.Errorf("the server says that it is %s", page.At)
		}
		if n, ok := page.Subjects["log.a.x"]; ok && n != 2 {
			t.Errorf("%d messages of a subject that has two", n)
		}
	}
	_, err := conn.SubjectsFrom(t.Context(), "nowhere", ">", 0)
	wantError(t, err, bus.ErrNotFound)
}
