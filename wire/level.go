package wire

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Level says how grave a printed line is.
type Level int

// Levels, in order. Lines that do not say are of LevelInfo.
const (
	LevelDebug Level = iota + 1
	LevelInfo
	LevelWarn
	LevelError
)

// levelNames are the words that loggers of all languages use.
var levelNames = map[string]Level{
	"trace": LevelDebug, "debug": LevelDebug, "info": LevelInfo, "notice": LevelInfo,
	"warn": LevelWarn, "warning": LevelWarn,
	"error": LevelError, "err": LevelError, "critical": LevelError, "fatal": LevelError, "panic": LevelError,
}

// ParseLevel reads a level as a logger or a person writes it, in any case.
func ParseLevel(text string) (Level, error) {
	if level, ok := levelNames[strings.ToLower(text)]; ok {
		return level, nil
	}
	return 0, Errorf(CodeInvalid, "%q is not a level; use debug, info, warn or error", text)
}

// String is the level as [ParseLevel] reads it.
func (l Level) String() string {
	switch l {
	case LevelDebug:
		return "debug"
	case LevelWarn:
		return "warn"
	case LevelError:
		return "error"
	}
	return "info"
}

const (
	// levelStep is between two of the numbers that some loggers write: 10 for trace to
	// 60 for fatal, 30 for info.
	levelStep = 10
	// maxLevelWord bounds the first word of a line that may be a level, in bytes.
	maxLevelWord = 12
)

// LineLevel returns the level of a printed line: that of a JSON object's "level", of
// logfmt's level=, or of a first word such as WARN, [error] or DEBUG:. Others are of
// [LevelInfo].
func LineLevel(line string) Level {
	line = strings.TrimSpace(line)
	switch {
	case strings.HasPrefix(line, "{"):
		return jsonLevel(line)
	case strings.Contains(line, "level="):
		_, rest, _ := strings.Cut(line, "level=")
		if level, ok := levelNames[strings.ToLower(firstWord(rest))]; ok {
			return level
		}
	}
	word := firstWord(line)
	// A sentence may begin with "Error", but it is in capitals or brackets that
	// loggers write levels.
	if level, ok := levelNames[strings.ToLower(word)]; ok && (word == strings.ToUpper(word) || strings.HasPrefix(line, "[")) {
		return level
	}
	return LevelInfo
}

func firstWord(text string) string {
	text = strings.TrimPrefix(text, "[")
	for i := range min(len(text), maxLevelWord) {
		if c := text[i] | 0x20; c < 'a' || c > 'z' {
			return text[:i]
		}
	}
	return text[:min(len(text), maxLevelWord)]
}

func jsonLevel(line string) Level {
	var object struct {
		Level json.RawMessage `json:"level"`
	}
	if json.Unmarshal([]byte(line), &object) != nil {
		return LevelInfo
	}
	var name string
	if json.Unmarshal(object.Level, &name) == nil {
		if level, ok := levelNames[strings.ToLower(name)]; ok {
			return level
		}
		return LevelInfo
	}
	number, err := strconv.Atoi(string(object.Level))
	if err != nil {
		return LevelInfo
	}
	switch {
	case number <= 2*levelStep:
		return LevelDebug
	case number <= 3*levelStep:
		return LevelInfo
	case number <= 4*levelStep:
		return LevelWarn
	}
	return LevelError
}
