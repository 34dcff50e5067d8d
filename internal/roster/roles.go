package roster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// rolesQuiet ends the wait for answers when no process has answered for so long, and
	// rolesBound whether they go on or not.
	rolesQuiet = 200 * time.Millisecond
	rolesBound = 2 * time.Second
	// maxRoles bounds the answers that are taken.
	maxRoles = 20_000
)

// Role is a process that answered.
type Role struct {
	wire.RoleState
	// DriftMillis is how far its clock is ahead of ours, less what its answer took to get
	// here.
	DriftMillis int64 `json:"driftMillis,omitempty"`
}

// Roles asks every process of the cluster what it is, and returns them by their roles and
// names. Who does not answer within a fraction of a second is left out.
func Roles(ctx context.Context, conn *bus.Conn, log *slog.Logger) ([]Role, error) {
	return ask(ctx, conn, wire.RoleProbeSubject, log)
}

// ask asks the processes that listen to a subject what they are.
func ask(ctx context.Context, conn *bus.Conn, subject string, log *slog.Logger) ([]Role, error) {
	answers, err := conn.Ask(subject, nil)
	if err != nil {
		return nil, err
	}
	defer answers.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, rolesBound, bus.ErrSilent)
	defer cancel()
	roles := []Role{}
	for len(roles) < maxRoles {
		m, err := answers.Next(ctx, rolesQuiet)
		switch {
		case errors.Is(err, bus.ErrSilent), errors.Is(err, bus.ErrNoResponders):
			slices.SortFunc(roles, compareRoles)
			return roles, nil
		case errors.Is(err, bus.ErrMissed):
			log.Warn("not all processes are listed", telemetry.KeyError, err)
			continue
		case err != nil:
			return nil, fmt.Errorf("ask the processes of the cluster: %w", err)
		}
		var r Role
		if err := json.Unmarshal(m.Data, &r.RoleState); err != nil {
			log.Warn("answer of a process ignored", telemetry.KeyError, err)
			continue
		}
		r.DriftMillis = time.Until(r.At).Milliseconds()
		roles = append(roles, r)
	}
	slices.SortFunc(roles, compareRoles)
	return roles, nil
}

func compareRoles(a, b Role) int {
	return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Process, b.Process))
}

// Compatible refuses to start beside a process that this one does not understand. Its
// error is for the operator: it names the process, and what to upgrade first.
func Compatible(roles []Role) error {
	for _, r := range roles {
		switch {
		case wire.Speaks(r.Protocol):
		case r.Protocol < wire.Protocol:
			return wire.Errorf(wire.CodeInvalid, "%s runs Dayfly %s with protocol %d, too old for this one with protocol %d: "+
				"upgrade it first, one release after the other", name(r), r.Build, r.Protocol, wire.Protocol)
		default:
			return wire.Errorf(wire.CodeInvalid, "%s runs Dayfly %s with protocol %d, too new for this one with protocol %d: "+
				"start this one with a binary of the cluster's release", name(r), r.Build, r.Protocol, wire.Protocol)
		}
	}
	return nil
}

// Alone refuses to start a node that another process has already, on this machine or on
// another one: both would take every call to it, and run it twice. The error is for the
// operator.
func Alone(self wire.RoleState, roles []Role) error {
	for _, r := range roles {
		if r.Node == self.Node && r.Process != self.Process {
			return wire.Errorf(wire.CodeInvalid, "%s has run under the same name since %s: give each node its own with --node, or stop that one first",
				name(r), r.Since.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// name is how an operator knows a process.
func name(r Role) string {
	if r.Node != "" {
		return fmt.Sprintf("the %s of node %s on %s", r.Role, r.Node, r.Host)
	}
	return fmt.Sprintf("the %s on %s", r.Role, r.Host)
}

// Self answers for a process. It is a lifecycle service.
type Self struct {
	conn  *bus.Conn
	state func() wire.RoleState
	log   *slog.Logger
	subs  []*bus.Subscription
}

// NewSelf makes it; state is called for every question, by several goroutines at once.
func NewSelf(conn *bus.Conn, state func() wire.RoleState, log *slog.Logger) *Self {
	return &Self{conn: conn, state: state, log: log}
}

// Start asks one process of each protocol what it is, and fails when it is not understood,
// or when another one has this one's node. Then it answers for this process. However many
// there are, a start asks no more than these.
func (s *Self) Start(ctx context.Context) error {
	err := s.start(ctx)
	if err != nil {
		err = errors.Join(err, s.Stop(ctx))
	}
	return err
}

func (s *Self) start(ctx context.Context) error {
	self := s.state()
	var protocols, nodes []Role
	var errProtocols, errNodes error
	var asking sync.WaitGroup
	asking.Go(func() { protocols, errProtocols = ask(ctx, s.conn, wire.RoleProtocolSubject, s.log) })
	if self.Node != "" {
		// Of two that start at once, one hears of the other at the least: each answers
		// before it asks.
		if errNodes = s.answer(wire.NodeRoleSubject(self.Node), ""); errNodes == nil {
			nodes, errNodes = ask(ctx, s.conn, wire.NodeRoleSubject(self.Node), s.log)
		}
	}
	asking.Wait()
	if err := cmp.Or(errProtocols, errNodes, Compatible(protocols), Alone(self, nodes)); err != nil {
		return err
	}
	if err := s.answer(wire.RoleProtocolSubject, wire.RoleProtocolGroup(self.Protocol)); err != nil {
		return err
	}
	return s.answer(wire.RoleProbeSubject, "")
}

// answer answers for this process on a subject.
func (s *Self) answer(subject, group string) error {
	sub, err := s.conn.Subscribe(subject, group, func(m bus.Msg) {
		r := s.state()
		r.At = time.Now()
		data, err := json.Marshal(r)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			s.log.Warn("this process was not told of", telemetry.KeyError, err)
		}
	})
	if err == nil {
		s.subs = append(s.subs, sub)
	}
	return err
}

// Stop answers no more.
func (s *Self) Stop(context.Context) error {
	for _, sub := range s.subs {
		sub.Stop(s.conn)
	}
	s.subs = nil
	return nil
}
