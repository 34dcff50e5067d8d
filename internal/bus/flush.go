package bus

import (
	"context"
	"fmt"
)

// Flush returns nil once the server has taken all that was published before. ctx must
// have a deadline. Messages of this connection pass in order, so that who listens on the
// same server has them sent to it by then.
func (c *Conn) Flush(ctx context.Context) error {
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("wait for NATS: %w", err)
	}
	return nil
}
