package scheduler

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// maxExcluded bounds PlaceRequest.Exclude; a caller gives up long before.
const maxExcluded = 1000

// answer serves one request. It says nothing at all once the reign is in doubt:
// another scheduler may lead, and the first answer counts.
func (s *Scheduler) answer(r *reign, m bus.Msg) {
	begun := time.Now()
	if !r.holds() {
		s.metrics.placements.WithLabelValues(resultLapsed).Inc()
		return
	}
	req, reply := s.decide(m.Data, begun)
	if reply.Error == nil {
		reply.Epoch = r.epoch
	}
	s.metrics.decisions.Observe(time.Since(begun).Seconds())
	data, err := json.Marshal(reply)
	if err != nil {
		s.log.Error("answer not encoded", telemetry.KeyError, err)
		return
	}
	if !r.holds() {
		s.metrics.placements.WithLabelValues(resultLapsed).Inc()
		return
	}
	s.metrics.count(reply)
	s.logAnswer(req, reply)
	if err := m.Respond(data); err != nil {
		s.log.Warn("answer not sent", telemetry.KeyError, err)
	}
}

// logAnswer says what became of a call's request. One without a call only asks
// whether somebody leads.
func (s *Scheduler) logAnswer(req wire.PlaceRequest, reply wire.PlaceReply) {
	if req.Invocation == "" {
		return
	}
	log := s.log.With(telemetry.KeyInvocation, string(req.Invocation), telemetry.KeyFunction, req.Version.String())
	if reply.Error != nil {
		log.Warn("not placed", telemetry.KeyCode, string(reply.Error.Code), telemetry.KeyError, reply.Error.Message)
		return
	}
	log.Debug("placed", telemetry.KeyNode, string(reply.Node), "lease", string(reply.Lease), keyEpoch, reply.Epoch)
}

func (s *Scheduler) decide(data []byte, now time.Time) (wire.PlaceRequest, wire.PlaceReply) {
	req, invalid := parseRequest(data)
	if invalid != nil {
		return req, wire.PlaceReply{Error: invalid}
	}
	lease, failed := newLease()
	if failed != nil {
		return req, wire.PlaceReply{Error: failed}
	}
	s.mu.Lock()
	if req.Again {
		s.nodes.giveBackOf(req.Invocation)
	}
	node, refused := s.nodes.place(req, lease, false, now)
	s.mu.Unlock()
	if refused != nil {
		return req, wire.PlaceReply{Error: refused}
	}
	return req, wire.PlaceReply{Node: node, Lease: lease}
}

// newLease makes up the ID of a lease.
func newLease() (wire.LeaseID, *wire.Error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", wire.Errorf(wire.CodeInternal, "make a lease ID: %s", err)
	}
	return wire.LeaseID(id.String()), nil
}

func parseRequest(data []byte) (wire.PlaceRequest, *wire.Error) {
	var req wire.PlaceRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return req, wire.Errorf(wire.CodeInvalid, "place request is not the JSON that is expected: %s", err)
	}
	v := req.Version
	switch {
	case !wire.Speaks(req.Protocol):
		return req, wire.Errorf(wire.CodeInvalid, "place request in protocol %d, but this scheduler speaks %d and those next to it: upgrade the older of the two, one release after the other",
			req.Protocol, wire.Protocol)
	case !wire.ValidName(v.Name), !wire.ValidName(v.Namespace), v.Number < 1:
		return req, wire.Errorf(wire.CodeInvalid, "place request: version %q in namespace %q, number %d, is not valid", v.Name, v.Namespace, v.Number)
	case req.Runtime == "":
		return req, wire.Errorf(wire.CodeInvalid, "place request for %s names no runtime", v)
	case len(req.Exclude) > maxExcluded:
		return req, wire.Errorf(wire.CodeInvalid, "place request for %s excludes %d nodes; at most %d are allowed", v, len(req.Exclude), maxExcluded)
	}
	req.Needs.Instances = 1
	return req, nil
}
