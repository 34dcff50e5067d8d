package runtimeapi

import (
	"context"
	"errors"
	"slices"

	"github.com/dayfly-run/dayfly/wire"
)

// exchange is one event on its way through the function.
type exchange struct {
	ctx      context.Context // Invoke's
	event    Event
	answer   chan answer   // holds one
	returned chan struct{} // holds one: the event did not reach the function whole
	// delivered says that the function has all of the event; asked that it asked for
	// the next one meanwhile. Both guarded by the API's mu.
	delivered, asked bool
	// taken is closed when the response has been taken; nil until that begins. Guarded
	// by the API's mu.
	taken chan struct{}
	// calling holds one for everything that the function asks for meanwhile; nil until
	// then. It is made once, guarded by the API's mu.
	calling chan struct{}
}

type answer struct {
	result []byte
	err    error
}

// last returns the answer that came with the function's last breath, or err.
func (x *exchange) last(err error) ([]byte, error) {
	select {
	case got := <-x.answer:
		return got.unpack()
	default:
	}
	select {
	case <-x.returned:
		if errors.Is(err, ErrEnded) {
			err = ErrNotDelivered
		}
	default:
	}
	return nil, err
}

func (a answer) unpack() ([]byte, error) {
	if a.err != nil {
		return nil, a.err
	}
	return a.result, nil
}

// abandon fails the open event: a runtime that runs one at a time and asks for the
// next one has given up on it, unless it never got it, which shows when its delivery
// ends.
func (a *API) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.atOnce > 1 {
		return // nobody knows which of its clients asks
	}
	for _, x := range a.open {
		if x.delivered {
			a.fail(x)
			return
		}
		x.asked = true
	}
}

// fail answers an open exchange for a runtime that did not; a.mu is held.
func (a *API) fail(x *exchange) {
	a.drop(x)
	x.answer <- answer{err: &wire.Error{
		Code: wire.CodeFunctionError, Type: "Runtime.NoResponse",
		Message: "the function asked for its next event without answering this one",
	}}
}

// drop takes an exchange out of the open ones; a.mu is held.
func (a *API) drop(x *exchange) {
	if i := slices.Index(a.open, x); i >= 0 {
		a.open = slices.Delete(a.open, i, i+1)
	}
}

// close ends an exchange for which nobody waits any more.
func (a *API) close(x *exchange) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(x)
}

// handed notes whether an event reached the function whole. When its connection
// broke, Invoke may hand it out again: a function that got only a part of it cannot
// have acted on it.
func (a *API) handed(x *exchange, whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := x.asked
	x.delivered, x.asked = whole, false
	switch {
	case !slices.Contains(a.open, x): // answered already
	case !whole:
		a.drop(x)
		x.returned <- struct{}{}
	case asked:
		a.fail(x)
	}
}

// runs reports whether an invocation waits for its answer.
func (a *API) runs(id wire.InvocationID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.find(id) != nil
}

// find returns the open exchange of an invocation, or nil; a.mu is held.
func (a *API) find(id wire.InvocationID) *exchange {
	for _, x := range a.open {
		if x.event.ID == id {
			return x
		}
	}
	return nil
}

// settle answers the open exchange of an invocation, if there is one.
func (a *API) settle(id wire.InvocationID, got answer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.find(id)
	if x == nil {
		return false
	}
	a.drop(x)
	x.answer <- got
	return true
}
