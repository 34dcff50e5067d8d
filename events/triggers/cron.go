package triggers

import (
	"context"
	"encoding/json"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// scheduled is how a function gets a tick: as an event of Amazon's EventBridge.
type scheduled struct {
	Version    string          `json:"version"`
	ID         string          `json:"id"`
	DetailType string          `json:"detail-type"` //nolint:tagliatelle // as AWS spells it
	Source     string          `json:"source"`
	Account    string          `json:"account"`
	Region     string          `json:"region"`
	Time       time.Time       `json:"time"`
	Resources  []string        `json:"resources"`
	Schedule   string          `json:"schedule"`
	Timezone   string          `json:"timezone"`
	Detail     json.RawMessage `json:"detail"`
}

// tick makes an event of a tick of a schedule, by when it was planned.
func (m *mover) tick(ctx context.Context, d *bus.Delivery) (r intake.Request, wanted bool, err error) {
	next, ok := d.ScheduleNext()
	if !ok {
		m.log.Warn("something that is no tick was published for a schedule", "subject", d.Subject)
		return r, false, nil
	}
	planned := m.schedule.Before(next)
	if planned.IsZero() {
		planned = d.StoredAt
	}
	if late := time.Since(planned); late > m.triggers.cfg.MissedAfter {
		if missed, err := m.missed(ctx, d); missed || err != nil {
			m.log.Info("tick missed", "planned", planned, "late", late)
			return r, false, err
		}
	}
	// No two ticks have the same one after them; a server that takes over may make the
	// same tick again.
	e := m.event(wire.SourceCron, planned, next.UTC().Format(time.RFC3339))
	c := m.trigger.Cron
	detail := c.Payload
	if len(detail) == 0 {
		detail = json.RawMessage("{}")
	}
	payload, err := json.Marshal(scheduled{
		Version: "0", ID: string(e.Invocation), DetailType: "Scheduled Event", Source: "dayfly.cron", Time: planned.UTC(),
		Resources: []string{"arn:dayfly:cron:::" + m.function.String() + "/" + string(m.trigger.ID())},
		Schedule:  c.Schedule, Timezone: c.Timezone, Detail: detail,
	})
	return intake.Request{Event: e, Payload: payload}, true, err
}

// missed reports whether a late tick makes no event: none does, or the latest alone.
func (m *mover) missed(ctx context.Context, d *bus.Delivery) (bool, error) {
	if m.trigger.Cron.Missed == functions.MissedSkip {
		return true, nil
	}
	last, err := m.triggers.deps.Conn.LastMessage(ctx, wire.StreamSchedules, d.Subject)
	return last.Sequence > d.Sequence, err
}
