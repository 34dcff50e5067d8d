package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/dayfly-run/dayfly/wire"
)

// maxAnswer is how much of an answer is read.
const maxAnswer = 1 << 20

// Reply is a gateway's answer; its zero value is none.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// refusal is an answer that says no.
func (r Reply) refusal() error { return fmt.Errorf("%d: %s", r.Status, r.Body) }

// Invoke gives a function an event by a gateway, and returns whatever the gateway answers.
// It fails where there is no whole answer.
func (c *Cluster) Invoke(ctx context.Context, gateway *Process, function string, event []byte, header http.Header) (Reply, error) {
	return c.ask(ctx, http.MethodPost, gateway, "/v1/functions/"+function+"/invocations", event, header)
}

// Accept gives a function an event that runs later, under a key unless that is empty. It
// fails unless the event was accepted.
func (c *Cluster) Accept(ctx context.Context, gateway *Process, function, key string, event []byte) (wire.InvocationID, error) {
	header := http.Header{"Prefer": {wire.RespondAsync}}
	if key != "" {
		header.Set(wire.HeaderIdempotencyKey, key)
	}
	got, err := c.Invoke(ctx, gateway, function, event, header)
	if err != nil {
		return "", err
	}
	if got.Status != http.StatusAccepted {
		return "", got.refusal()
	}
	var answer struct {
		Invocation wire.InvocationID `json:"invocation"`
	}
	err = json.Unmarshal(got.Body, &answer)
	return answer.Invocation, err
}

// Record is what a gateway knows of an invocation.
func (c *Cluster) Record(ctx context.Context, gateway *Process, id wire.InvocationID) (r wire.Record, err error) {
	got, err := c.ask(ctx, http.MethodGet, gateway, "/v1/invocations/"+string(id), nil, nil)
	if err != nil {
		return r, err
	}
	if got.Status != http.StatusOK {
		return r, fmt.Errorf("record of %s: %w", id, got.refusal())
	}
	return r, json.Unmarshal(got.Body, &r)
}

// Output is the result that an invocation left.
func (c *Cluster) Output(ctx context.Context, gateway *Process, id wire.InvocationID) ([]byte, error) {
	got, err := c.ask(ctx, http.MethodGet, gateway, "/v1/invocations/"+string(id)+"/output", nil, nil)
	if err != nil {
		return nil, err
	}
	if got.Status != http.StatusOK {
		return nil, fmt.Errorf("output of %s: %w", id, got.refusal())
	}
	return got.Body, nil
}

func (c *Cluster) ask(ctx context.Context, method string, gateway *Process, path string, body []byte, header http.Header) (Reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL(gateway)+path, bytes.NewReader(body))
	if err != nil {
		return Reply{}, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Reply{}, err
	}
	return Reply{Status: resp.StatusCode, Header: resp.Header, Body: answer}, nil
}
