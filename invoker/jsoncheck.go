package invoker

import (
	"errors"
	"io"
)

// maxDepth bounds how deep arrays and objects may be nested in a result, as in
// encoding/json.
const maxDepth = 10_000

// shownBytes is how much of a result that is no JSON its error shows.
const shownBytes = 40

// errNoJSON: a result that goes by is no JSON.
var errNoJSON = errors.New("no JSON")

// jsonReader passes on what it reads and fails where that is no JSON. It holds a byte for
// each array and object that is open, and nothing of the text.
type jsonReader struct {
	r io.Reader

	state  jsonState
	open   []byte // '[' or '{' of what is open
	isName bool   // the string that is read is a name in an object
	rest   string // of a literal, such as rue of true
	hex    int    // digits of a \u that are missing
	start  []byte // what it began with, for the error
}

// jsonState is what may come next.
type jsonState int

const (
	wantValue jsonState = iota
	wantValueOrEnd
	wantNameOrEnd
	wantName
	wantColon
	wantCommaOrEnd // or nothing, at the end of all
	inString
	inEscape
	inHex
	inLiteral
	afterMinus
	afterZero
	inDigits
	afterPoint
	inFraction
	afterE
	afterSign
	inExponent
)

// Read implements [io.Reader].
func (j *jsonReader) Read(p []byte) (int, error) {
	n, err := j.r.Read(p)
	if missing := shownBytes - len(j.start); missing > 0 {
		j.start = append(j.start, p[:min(n, missing)]...)
	}
	for rest := p[:n]; len(rest) > 0; {
		if rest = rest[j.skip(rest):]; len(rest) == 0 {
			break
		}
		if !j.step(rest[0]) {
			return 0, errNoJSON
		}
		rest = rest[1:]
	}
	if errors.Is(err, io.EOF) && !j.complete() {
		return 0, errNoJSON
	}
	return n, err
}

// skip counts the bytes ahead that change nothing: most of a large result is text.
func (j *jsonReader) skip(p []byte) int {
	switch j.state {
	case inString:
		for i, c := range p {
			if c < ' ' || c == '"' || c == '\\' {
				return i
			}
		}
		return len(p)
	case inDigits, inFraction, inExponent:
		for i, c := range p {
			if !isDigit(c) {
				return i
			}
		}
		return len(p)
	default:
		return 0
	}
}

func (j *jsonReader) complete() bool {
	switch j.state {
	case wantCommaOrEnd, afterZero, inDigits, inFraction, inExponent:
		return len(j.open) == 0
	default:
		return false
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// step takes one byte.
func (j *jsonReader) step(c byte) bool {
	switch j.state {
	case inString:
		return j.stepString(c)
	case inEscape:
		return j.stepEscape(c)
	case inHex:
		return j.stepHex(c)
	case inLiteral:
		if c != j.rest[0] {
			return false
		}
		if j.rest = j.rest[1:]; j.rest == "" {
			j.state = wantCommaOrEnd
		}
		return true
	}
	if j.state >= afterMinus {
		taken, ok := j.stepNumber(c)
		if taken || !ok {
			return ok
		}
		j.state = wantCommaOrEnd // the number is over; c comes after it
	}
	if c == ' ' || c == '\t' || c == '\r' || c == '\n' {
		return true
	}
	return j.stepStructure(c)
}

func (j *jsonReader) stepString(c byte) bool {
	switch {
	case c == '"' && j.isName:
		j.state = wantColon
	case c == '"':
		j.state = wantCommaOrEnd
	case c == '\\':
		j.state = inEscape
	case c < ' ':
		return false
	}
	return true
}

func (j *jsonReader) stepHex(c byte) bool {
	if j.hex--; j.hex == 0 {
		j.state = inString
	}
	return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func (j *jsonReader) stepEscape(c byte) bool {
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		j.state = inString
	case 'u':
		j.state, j.hex = inHex, 4
	default:
		return false
	}
	return true
}

// numberStep is what follows in a number; the zero state is for what may not.
type numberStep struct {
	digit, point, exponent, sign jsonState
	over                         bool // it may end here
}

var numberSteps = [...]numberStep{
	afterMinus: {digit: inDigits},
	afterZero:  {point: afterPoint, exponent: afterE, over: true},
	inDigits:   {digit: inDigits, point: afterPoint, exponent: afterE, over: true},
	afterPoint: {digit: inFraction},
	inFraction: {digit: inFraction, exponent: afterE, over: true},
	afterE:     {digit: inExponent, sign: afterSign},
	afterSign:  {digit: inExponent},
	inExponent: {digit: inExponent, over: true},
}

// stepNumber takes a byte of a number, unless the number is over before it.
func (j *jsonReader) stepNumber(c byte) (taken, ok bool) {
	steps := numberSteps[j.state]
	next := wantValue
	switch {
	case c == '0' && j.state == afterMinus:
		next = afterZero
	case isDigit(c):
		next = steps.digit
	case c == '.':
		next = steps.point
	case c|0x20 == 'e':
		next = steps.exponent
	case c == '+' || c == '-':
		next = steps.sign
	}
	if next == wantValue {
		return false, steps.over
	}
	j.state = next
	return true, true
}

// stepStructure takes a byte that is in no string, literal or number, and no space.
func (j *jsonReader) stepStructure(c byte) bool {
	switch j.state {
	case wantColon:
		j.state = wantValue
		return c == ':'
	case wantName, wantNameOrEnd:
		if c == '}' && j.state == wantNameOrEnd {
			return j.close(c)
		}
		j.state, j.isName = inString, true
		return c == '"'
	case wantCommaOrEnd:
		if c != ',' {
			return j.close(c)
		}
		if len(j.open) == 0 {
			return false
		}
		j.state = wantValue
		if j.open[len(j.open)-1] == '{' {
			j.state = wantName
		}
		return true
	case wantValueOrEnd:
		if c == ']' {
			return j.close(c)
		}
	}
	return j.begin(c)
}

// begin takes the first byte of a value.
func (j *jsonReader) begin(c byte) bool {
	switch {
	case c == '"':
		j.state, j.isName = inString, false
	case c == '[' || c == '{':
		j.open = append(j.open, c)
		j.state = wantValueOrEnd
		if c == '{' {
			j.state = wantNameOrEnd
		}
		return len(j.open) <= maxDepth
	case c == '-':
		j.state = afterMinus
	case c == '0':
		j.state = afterZero
	case isDigit(c):
		j.state = inDigits
	case c == 't':
		j.state, j.rest = inLiteral, "true"[1:]
	case c == 'f':
		j.state, j.rest = inLiteral, "false"[1:]
	case c == 'n':
		j.state, j.rest = inLiteral, "null"[1:]
	default:
		return false
	}
	return true
}

// close takes the last byte of an array or object.
func (j *jsonReader) close(c byte) bool {
	last := len(j.open) - 1
	if last < 0 || c != j.open[last]+2 { // ] and } come two after [ and {
		return false
	}
	j.open, j.state = j.open[:last], wantCommaOrEnd
	return true
}
