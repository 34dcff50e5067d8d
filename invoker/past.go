package invoker

import "time"

const (
	// maxPast bounds the calls whose end is remembered: some seconds of a busy node's.
	maxPast = 16 << 10
	// maxKeptAnswer and maxKeptBytes bound the answers that are kept, each and all, in
	// bytes.
	maxKeptAnswer, maxKeptBytes = 64 << 10, 4 << 20
	// maxVoid bounds the offers that are not taken any more.
	maxVoid = 4 << 10
)

// answered is a call that the node has answered.
type answered struct {
	offer uint64
	// to is where the answer went, and frame the answer, nil when it is not kept.
	to    string
	frame []byte
	at    time.Time
}

// past remembers the last calls. It is not safe for concurrent use.
type past struct {
	// since is when the newest forgotten one was answered: all that were answered after it
	// are in calls. Zero is never.
	since time.Time
	// calls is a ring once it is full; count is how many there ever were. Those with a
	// number from kept on have their answers, of so many bytes.
	calls       []answered
	count, kept int
	bytes       int
}

// reaches reports whether all calls are remembered that were answered after a moment.
func (p *past) reaches(t time.Time) bool { return !p.since.IsZero() && t.After(p.since) }

func (p *past) add(a answered) {
	if cap(a.frame) > maxKeptAnswer {
		a.frame = nil
	}
	if len(p.calls) < maxPast {
		p.calls = append(p.calls, a)
	} else {
		if p.kept == p.count-maxPast {
			p.dropAnswer()
		}
		p.since = p.calls[p.count%maxPast].at
		p.calls[p.count%maxPast] = a
	}
	p.count++
	p.bytes += cap(a.frame)
	for p.bytes > maxKeptBytes {
		p.dropAnswer()
	}
}

// dropAnswer forgets the oldest answer that is kept.
func (p *past) dropAnswer() {
	oldest := &p.calls[p.kept%maxPast]
	p.bytes -= cap(oldest.frame)
	oldest.frame = nil
	p.kept++
}

// void are the last offers that somebody was told never came. It is not safe for
// concurrent use.
type void struct {
	numbers map[uint64]struct{}
	order   []uint64 // a ring once it is full
	next    int
}

func (v *void) has(number uint64) bool {
	_, ok := v.numbers[number]
	return ok
}

func (v *void) add(number uint64) {
	if v.has(number) {
		return
	}
	if v.numbers == nil {
		v.numbers = map[uint64]struct{}{}
	}
	v.numbers[number] = struct{}{}
	if len(v.order) < maxVoid {
		v.order = append(v.order, number)
		return
	}
	delete(v.numbers, v.order[v.next])
	v.order[v.next] = number
	v.next = (v.next + 1) % maxVoid
}
