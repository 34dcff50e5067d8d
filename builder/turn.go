package builder

import "context"

// turn is who may do something that nobody else does meanwhile. It is safe for concurrent
// use; newTurn makes one.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for one's turn, which lasts until done is called, or fails with ctx's cause.
func (t turn) take(ctx context.Context) (done func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
