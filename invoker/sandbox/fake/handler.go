package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/dayfly-run/dayfly/wire"
)

// socketVariable names the unix socket of the Runtime API to what runs inside.
const socketVariable = "DAYFLY_RUNTIME_SOCKET"

// Handler makes a Run that plays a runtime with a shim and its function: it asks the
// Runtime API on the unix socket for its assignment, then takes events from there
// and gives each to handle. An error of handle is reported as
// the function's own. Its exit status is 1 when the Runtime API fails.
func Handler(handle func(event []byte) ([]byte, error)) func(context.Context, Process) int {
	return func(ctx context.Context, p Process) int {
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.Dial(ctx, "unix", p.Env(socketVariable))
		}}
		defer transport.CloseIdleConnections()
		f := function{client: &http.Client{Transport: transport}, handle: handle}
		if _, _, err := f.call(ctx, http.MethodGet, "/dayfly/v1/assignment", nil); err != nil {
			return 1
		}
		for {
			if err := f.once(ctx); err != nil {
				return 1
			}
		}
	}
}

const invocations = "/2018-06-01/runtime/invocation/"

type function struct {
	client *http.Client
	handle func(event []byte) ([]byte, error)
}

// once takes one event and answers it.
func (f function) once(ctx context.Context) error {
	id, event, err := f.call(ctx, http.MethodGet, invocations+"next", nil)
	if err != nil {
		return err
	}
	result, err := f.handle(event)
	if err == nil {
		_, _, err = f.call(ctx, http.MethodPost, invocations+id+"/response", result)
		return err
	}
	report, e := json.Marshal(map[string]string{"errorMessage": err.Error(), "errorType": fmt.Sprintf("%T", err)})
	if e != nil {
		return e
	}
	_, _, err = f.call(ctx, http.MethodPost, invocations+id+"/error", report)
	return err
}

func (f function) call(ctx context.Context, method, path string, body []byte) (id string, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://runtime"+path, bytes.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	response, err := f.client.Do(request)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	// A result that is too large is the function's failure; the runtime goes on.
	if response.StatusCode/100 != 2 && response.StatusCode != http.StatusRequestEntityTooLarge {
		return "", nil, fmt.Errorf("runtime API: %s %s: %s", method, path, response.Status)
	}
	answer, err = io.ReadAll(io.LimitReader(response.Body, wire.MaxEvent))
	return response.Header.Get("Lambda-Runtime-Aws-Request-Id"), answer, err
}
