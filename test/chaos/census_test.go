package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/test/cluster"
	"github.com/dayfly-run/dayfly/wire"
)

// answerWithin is how long a call may take, but for what its instance took to start: it
// waits for one for as long as its function may run, and then it runs.
const answerWithin = 2*timeout + promise

// echoed says whether a body is the answer to an order and to no other.
func echoed(body string, o order) bool {
	var got order
	return json.Unmarshal([]byte(body), &got) == nil && got == o
}

// silence is what excuses a call: until when its gateway could not answer, zero if it
// always could, and whether the gateway was killed meanwhile.
func silence(c call, outages []outage) (until time.Time, killed bool) {
	for _, o := range outages {
		if o.process != c.gateway || !c.sent.Before(o.to) || !c.answered.After(o.from) {
			continue
		}
		if o.to.After(until) {
			until = o.to
		}
		killed = killed || o.kind == kills
	}
	return until, killed
}

// wrongCalls says what no fault excuses: a success that is none, and a call without an
// answer in time. A gateway that is down or stopped cannot answer until it is back, and one
// that is killed never answers what it had taken; slack says what the machine itself was
// late by.
func wrongCalls(calls []call, outages []outage, slack func(from, to time.Time) time.Duration) (wrong []string) {
	for _, c := range calls {
		from := c.sent
		until, killed := silence(c, outages)
		if until.After(from) {
			from = until
		}
		took, late := c.answered.Sub(from), slack(from, c.answered)
		switch {
		case c.status == http.StatusOK && !echoed(c.body, c.order):
			wrong = append(wrong, "false success: "+c.String())
		case c.status == http.StatusOK && c.Spins:
			wrong = append(wrong, "success of what never ends: "+c.String())
		case c.status == 0 && !killed:
			wrong = append(wrong, "no answer: "+c.String())
		case took > answerWithin+c.start+late:
			wrong = append(wrong, fmt.Sprintf("answered too late, with %s to spare: %s", late, c))
		}
	}
	return wrong
}

// unwell lists the calls that failed when all was well again. One that waited in vain is
// excused where much of the wait was the machine's own.
func unwell(calls []call, since time.Time, slack func(from, to time.Time) time.Duration) (wrong []string) {
	for _, c := range calls {
		if c.sent.Before(since) || c.Spins || c.status == http.StatusOK {
			continue
		}
		if late := slack(c.sent, c.answered); c.status == 0 || late < c.answered.Sub(c.sent)/3 {
			wrong = append(wrong, fmt.Sprintf("failed though all was well, with %s to spare: %s", late, c))
		}
	}
	return wrong
}

// fate fails unless an event has come to the end that its order deserves: what fails must
// have failed by itself, and been tried as often as it may be.
func fate(o order, r wire.Record) error {
	want := wire.StateSucceeded
	if o.Fails {
		want = wire.StateDead
	}
	failed := func(a wire.Attempt) bool { return a.Error != nil && a.Error.Code == wire.CodeFunctionError }
	switch {
	case r.State != want:
		return fmt.Errorf("it is %s after %d attempts, the last of which: %+v", r.State, len(r.Attempts), r.Error) //nolint:errorlint // it may be nil
	case want == wire.StateSucceeded && r.Output == nil:
		return errors.New("it succeeded and left nothing")
	case want == wire.StateDead && (len(r.Attempts) != failAttempts || !slices.ContainsFunc(r.Attempts, failed)):
		return fmt.Errorf("it is dead without failing, after %d attempts: %+v", len(r.Attempts), r.Attempts)
	}
	return nil
}

// missing says of what a seed saw nothing, so that what is said of all of it says nothing.
func missing(calls []call, events []event, placed, busy int) (wrong []string) {
	answered := slices.ContainsFunc(calls, func(c call) bool { return c.status == http.StatusOK })
	accepted := slices.ContainsFunc(events, func(e event) bool { return e.accepted != "" })
	for _, of := range []struct {
		what string
		seen bool
	}{{"call was answered", answered}, {"event was accepted", accepted}, {"instance was placed", placed > 0}, {"process was seen busy", busy > 0}} {
		if !of.seen {
			wrong = append(wrong, "nothing was tested: no "+of.what)
		}
	}
	return wrong
}

// decision is that of a scheduler which leads, in the order in which we read of them.
type decision struct {
	at        time.Time
	scheduler string
	epoch     uint64
}

func (d decision) String() string {
	return fmt.Sprintf("%s placed under epoch %d at %s", d.scheduler, d.epoch, d.at.Format(clockFormat))
}

// decisions reads what schedulers say that they did since a moment.
func decisions(schedulers []*cluster.Process, since time.Time) (all []decision) {
	for _, p := range schedulers {
		for _, line := range p.Log.Since(since) {
			fields := line.Fields()
			if fields["msg"] != "placed" {
				continue
			}
			if epoch, ok := fields["epoch"].(float64); ok {
				all = append(all, decision{line.At, p.Name, uint64(epoch)})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b decision) int { return a.at.Compare(b.at) })
	return all
}

// sameMoment is within what two lines of two processes may be read in the wrong order.
const sameMoment = 100 * time.Millisecond

// rivals says which decisions were made under an epoch that was over, and which epoch two
// schedulers shared.
func rivals(all []decision, slack func(from, to time.Time) time.Duration) (wrong []string) {
	holders := map[uint64]string{}
	var newest decision // the first one under the highest epoch
	for _, d := range all {
		if holder, known := holders[d.epoch]; known && holder != d.scheduler {
			wrong = append(wrong, fmt.Sprintf("epoch %d is %s's and %s's", d.epoch, holder, d.scheduler))
		}
		holders[d.epoch] = d.scheduler
		switch {
		case d.epoch > newest.epoch:
			newest = d
		case d.epoch < newest.epoch && d.at.Sub(newest.at) > sameMoment+slack(newest.at, d.at):
			wrong = append(wrong, fmt.Sprintf("two leaders: %s, after %s", d, newest))
		}
	}
	return wrong
}
