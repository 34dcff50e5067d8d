package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/dayfly-run/dayfly/wire"
)

// DeadLetter is an event that was given up.
type DeadLetter struct {
	wire.DeadLetter
	// Payload is what the function would have got, if it is JSON and small. Lists leave
	// it out.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// DeadLetters lists the events of a function that were given up, the newest first; limit
// is how many, or zero for what the server finds fit.
func (c *Client) DeadLetters(ctx context.Context, ref string, limit int) ([]DeadLetter, error) {
	query := url.Values{}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	var list struct {
		DeadLetters []DeadLetter `json:"deadLetters"`
	}
	err := c.deadLetters(ctx, ref, request{method: http.MethodGet}, query, &list)
	return list.DeadLetters, err
}

// DeadLetter returns one of them with its payload.
func (c *Client) DeadLetter(ctx context.Context, ref string, id wire.InvocationID) (DeadLetter, error) {
	var letter DeadLetter
	if err := parseInvocation(id); err != nil {
		return letter, err
	}
	err := c.deadLetters(ctx, ref, request{method: http.MethodGet}, nil, &letter, string(id))
	return letter, err
}

// Redrive gives events another try, the oldest first: those that are named, or all. It
// returns which came back; more says that there are others, so ask again.
func (c *Client) Redrive(ctx context.Context, ref string, ids ...wire.InvocationID) (back []wire.InvocationID, more bool, err error) {
	body, err := json.Marshal(map[string][]wire.InvocationID{"invocations": ids})
	if err != nil {
		return nil, false, err
	}
	var answer struct {
		Invocations []wire.InvocationID `json:"invocations"`
		More        bool                `json:"more"`
	}
	err = c.deadLetters(ctx, ref, request{
		method: http.MethodPost, body: bytes.NewReader(body), bytes: int64(len(body)), contentType: jsonType,
	}, nil, &answer, "redrive")
	return answer.Invocations, answer.More, err
}

// PurgeDeadLetters forgets events: those that are named, or all. It returns how many.
func (c *Client) PurgeDeadLetters(ctx context.Context, ref string, ids ...wire.InvocationID) (int, error) {
	query := url.Values{}
	for _, id := range ids {
		query.Add("invocation", string(id))
	}
	var answer struct {
		Purged int `json:"purged"`
	}
	err := c.deadLetters(ctx, ref, request{method: http.MethodDelete}, query, &answer)
	return answer.Purged, err
}

func (c *Client) deadLetters(ctx context.Context, ref string, r request, query url.Values, out any, path ...string) error {
	parsed, err := parseRef(ref)
	if err != nil {
		return err
	}
	r.url = c.at(query, append([]string{"v1", "functions", parsed.FunctionID.String(), "dead-letters"}, path...)...)
	return c.call(ctx, c.timeout, r, out)
}
