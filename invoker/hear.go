package invoker

import (
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// hearing is a subject that a node listens to.
type hearing struct {
	subject string
	handle  func(bus.Msg)
	// brings says that it brings the node something to do. That ends when a stop begins;
	// all else goes on while the calls under way come to their end.
	brings bool
}

// hearings are all of them; what brings work comes last, when the node hears all else.
func (inv *Invoker) hearings() []hearing {
	id := inv.cfg.Node
	tellAll := func(bus.Msg) { inv.tellAll() }
	return []hearing{
		{subject: wire.CancelSubject, handle: inv.heardCancel},
		{subject: wire.NodeInquirySubject(id), handle: inv.heardInquiry},
		{subject: wire.NodeStreamSubject(id), handle: inv.heardAck},
		{subject: wire.NodeFenceSubject(id), handle: inv.heardFence},
		{subject: wire.NodeCallSubject(id), handle: inv.heardCall},
		{subject: wire.NodeProbeSubject, handle: tellAll},
		{subject: wire.NodeAskSubject(id), handle: tellAll},
		{subject: wire.NodeControlSubject(id), handle: inv.control, brings: true},
		{subject: wire.NodeInvokeSubject(id), handle: func(m bus.Msg) { inv.calls.Go(func() { inv.serve(m) }) }, brings: true},
	}
}

// subscribe begins to listen. After an error, what was begun is to be ended.
func (inv *Invoker) subscribe() error {
	for _, h := range inv.hearings() {
		sub, err := inv.deps.Conn.Subscribe(h.subject, "", h.handle)
		if err != nil {
			return err
		}
		if h.brings {
			inv.intake = append(inv.intake, sub)
		} else {
			inv.during = append(inv.during, sub)
		}
	}
	return nil
}

// unsubscribe ends subscriptions. Messages that are here are handled before it returns.
func (inv *Invoker) unsubscribe(subs *[]*bus.Subscription) {
	for _, s := range *subs {
		s.Stop(inv.deps.Conn)
	}
	*subs = nil
}
