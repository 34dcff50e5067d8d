package wire_test

import (
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

func TestLineLevel(t *testing.T) {
	for line, want := range map[string]wire.Level{
		``:                                       wire.LevelInfo,
		`reading cat.png`:                        wire.LevelInfo,
		`Error: no such file`:                    wire.LevelInfo,
		`ERROR: no such file`:                    wire.LevelError,
		`ERROR:root:no such file`:                wire.LevelError,
		`WARNING something`:                      wire.LevelWarn,
		`WARNINGS ARE OFF`:                       wire.LevelInfo,
		`[error] no such file`:                   wire.LevelError,
		`  [DEBUG] x`:                            wire.LevelDebug,
		`FATAL`:                                  wire.LevelError,
		`{"level":"warn","msg":"x"}`:             wire.LevelWarn,
		`{"msg":"x","level":"ERROR"}`:            wire.LevelError,
		`{"level":50,"msg":"x"}`:                 wire.LevelError,
		`{"level":40}`:                           wire.LevelWarn,
		`{"level":30}`:                           wire.LevelInfo,
		`{"level":20}`:                           wire.LevelDebug,
		`{"level":"loud"}`:                       wire.LevelInfo,
		`{"level":[1]}`:                          wire.LevelInfo,
		`{"level":"warn"`:                        wire.LevelInfo,
		`{"msg":"level=error"}`:                  wire.LevelInfo,
		`time=2026-05-01 level=WARN msg=slow`:    wire.LevelWarn,
		`time=2026-05-01 level=unknown msg=slow`: wire.LevelInfo,
	} {
		if got := wire.LineLevel(line); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestParseLevel(t *testing.T) {
	for _, level := range []wire.Level{wire.LevelDebug, wire.LevelInfo, wire.LevelWarn, wire.LevelError} {
		if got, err := wire.ParseLevel(level.String()); err != nil || got != level {
			t.Errorf("%s: %s, %v", level, got, err)
		}
	}
	if _, err := wire.ParseLevel("loud"); !wire.HasCode(err, wire.CodeInvalid) {
		t.Errorf("error = %v", err)
	}
}
