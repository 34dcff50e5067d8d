package triggers

import (
	"strconv"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/s3event"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// notification makes an event of those records of an S3 notification that the trigger
// wants.
func (m *mover) notification(d *bus.Delivery) (r intake.Request, wanted bool, err error) {
	records, err := s3event.Parse(d.Data)
	if err != nil { // it will not get better
		m.log.Warn("notification of a bucket left out", "subject", d.Subject, telemetry.KeyError, err)
		return r, false, nil
	}
	var mine []s3event.Record
	for _, record := range records {
		if record.Bucket == m.trigger.Bucket.Bucket && m.trigger.Bucket.Wants(record.Event, record.Key) {
			mine = append(mine, record)
		}
	}
	if len(mine) == 0 {
		return r, false, nil
	}
	payload, err := s3event.Document(mine)
	e := m.event(wire.SourceBucket, d.StoredAt, m.source.Stream, strconv.FormatUint(d.Sequence, 10))
	return intake.Request{Event: e, Payload: payload}, true, err
}
