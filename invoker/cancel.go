package invoker

import (
	"encoding/json"
	"errors"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// errCancelled is the cause that ends an invocation because somebody asked for it.
var errCancelled = errors.New("the invocation was cancelled")

// heardCancel ends an invocation, if it is here, with its instance.
func (inv *Invoker) heardCancel(m bus.Msg) {
	var req wire.CancelRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		inv.log.Warn("cancel request refused", telemetry.KeyError, err)
		return
	}
	inv.underWay.cancel(req.Invocation)
}

// cancelled is the answer to an invocation that was.
func cancelled() *wire.Error {
	return wire.Errorf(wire.CodeCancelled, "the invocation was cancelled while it ran")
}
