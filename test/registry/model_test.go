package registry_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// The model is what the registry promises of one function, written down a second time.

// pointer is an alias in the model; one without a version is not there.
type pointer struct{ version, other, percent int }

// state is a function in the model. It is comparable.
type state struct {
	versions                  string // "1 2 5 "
	latest, decided, previous int
	live, prod                pointer
	// ended says that no client does anything any more.
	ended bool
}

func (s state) has(number int) bool {
	return strings.Contains(" "+s.versions, fmt.Sprintf(" %d ", number))
}

// verb is what a client does.
type verb int

const (
	register verb = iota
	promote
	setLive
	setProd
	rollback
	read
	end // comes after all that were answered
)

// input is a client's operation. A registration knows its number only afterwards, which
// is put here as well.
type input struct {
	verb   verb
	number int     // register, promote, rollback
	to     pointer // setLive, setProd
}

// output is what a client was told.
type output struct {
	// lost says that no answer came: what is after may be so at any time since, or never.
	lost bool
	// refused is the code of an answer that says no.
	refused  wire.Code
	moved    bool // promote
	from, to int  // rollback
	after    state
}

// step says whether an operation may have had an outcome in a state, and what is then.
func step(s state, in input, out output) (bool, state) {
	next, refused, moved, from, to := apply(s, in)
	switch {
	case in.verb == end:
		s.ended = true
		return true, s
	case out.lost && s.ended: // it may never have happened; said before, there would be no end of trying
		return true, s
	case out.lost:
		return out.after == next, next
	case out.refused != "" || refused != "":
		return out.refused == refused, s
	}
	return out.after == next && out.moved == moved && out.from == from && out.to == to, next
}

func apply(s state, in input) (next state, refused wire.Code, moved bool, from, to int) {
	next = s
	switch in.verb {
	case register:
		numbers := []int{in.number}
		for field := range strings.FieldsSeq(s.versions) {
			var n int
			_, _ = fmt.Sscan(field, &n) // it is one
			numbers = append(numbers, n)
		}
		next.versions, next.latest = listed(numbers), max(s.latest, in.number)
	case promote:
		if in.number > s.decided {
			moved, next.decided, next.previous, next.live = true, in.number, s.live.version, pointer{version: in.number}
		}
	case setLive:
		if !s.has(in.to.version) || in.to.other != 0 && !s.has(in.to.other) {
			return s, wire.CodeNotFound, false, 0, 0
		}
		next = s.moved(in.to)
	case setProd:
		if !s.has(in.to.version) || in.to.other != 0 && !s.has(in.to.other) {
			return s, wire.CodeNotFound, false, 0, 0
		}
		next.prod = in.to
	case rollback:
		from, to = s.live.version, in.number
		switch {
		case s.live.version == 0:
			return s, wire.CodeNotFound, false, 0, 0
		case to != 0:
		case s.live.other != 0 && s.previous != s.live.version && s.previous != s.live.other:
			from, to = s.live.other, s.live.version
		case s.previous == 0:
			return s, wire.CodeConflict, false, 0, 0
		default:
			to = s.previous
		}
		if !s.has(to) {
			return s, wire.CodeNotFound, false, 0, 0
		}
		next = s.moved(pointer{version: to})
	case read, end:
	}
	return next, "", moved, from, to
}

// moved is the state after live was pointed somewhere by hand.
func (s state) moved(to pointer) state {
	if to.version != s.live.version {
		s.previous = s.live.version
	}
	s.live, s.decided = to, s.latest
	return s
}

func listed(numbers []int) string {
	slices.Sort(numbers)
	var text strings.Builder
	for _, n := range slices.Compact(numbers) {
		fmt.Fprintf(&text, "%d ", n)
	}
	return text.String()
}

// stateOf is what a function says, in the model's terms.
func stateOf(f functions.Function) state {
	return state{
		versions: listed(slices.Clone(f.Versions)), latest: f.Latest, decided: f.Decided, previous: f.Previous,
		live: pointerOf(f.Aliases[wire.LiveAlias]), prod: pointerOf(f.Aliases["prod"]),
	}
}

func pointerOf(a functions.Alias) pointer {
	p := pointer{version: a.Version}
	for _, other := range slices.Sorted(maps.Keys(a.Weights)) {
		p.other, p.percent = other, a.Weights[other]
	}
	return p
}

var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) {
		ok, next := step(s.(state), in.(input), out.(output))
		return ok, next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
	DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
}
