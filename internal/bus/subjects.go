package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// pageBound limits a question whose answer is one page.
const pageBound = 10 * time.Second

// SubjectPage is a part of the subjects that have messages in a stream.
type SubjectPage struct {
	// Subjects says how many messages each has. It has no more than the server puts on a
	// page, 100,000.
	Subjects map[string]uint64
	// Total counts the subjects of all pages.
	Total int
	// At is when the server looked, by its own clock.
	At time.Time
}

// SubjectsFrom returns the subjects of a stream that have messages and match a filter, in
// their order, from the offset on and up to the end of a page. It fails with [ErrNotFound]
// when there is no such stream.
func (c *Conn) SubjectsFrom(ctx context.Context, stream, filter string, offset int) (SubjectPage, error) {
	question, err := json.Marshal(struct {
		Filter string `json:"subjects_filter"`
		Offset int    `json:"offset"`
	}{filter, offset})
	if err != nil {
		return SubjectPage{}, fmt.Errorf("list subjects of %s: %w", stream, err)
	}
	var data *nats.Msg
	err = c.ask(ctx, pageBound, func(ctx context.Context) error {
		data, err = c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: "$JS.API.STREAM.INFO." + stream, Data: question})
		return err
	})
	var answer struct {
		Error *jetstream.APIError `json:"error"`
		Total int                 `json:"total"`
		At    time.Time           `json:"ts"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	if err == nil {
		err = json.Unmarshal(data.Data, &answer)
	}
	if err == nil && answer.Error != nil {
		if err = answer.Error; answer.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound {
			err = errors.Join(ErrNotFound, err)
		}
	}
	if err != nil {
		return SubjectPage{}, fmt.Errorf("list subjects of %s: %w", stream, err)
	}
	return SubjectPage{Subjects: answer.State.Subjects, Total: answer.Total, At: answer.At}, nil
}
