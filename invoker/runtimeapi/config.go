package runtimeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	pathConfig = "/dayfly/v1/config"
	// pollBound is how long a question waits for a change; who asked asks again.
	pollBound = 50 * time.Second
	// maxPolls bounds the questions of one instance that wait at once.
	maxPolls = 8
)

// Configuration returns what the function is configured with, and a channel that is
// closed when that may have changed. It is called by many goroutines at once. Its error
// is a [*wire.Error].
type Configuration func(ctx context.Context) (functions.Config, <-chan struct{}, error)

// SetConfiguration lets the function read what it is configured with. It is called
// before [API.Assign]; without it such questions are refused.
func (a *API) SetConfiguration(read Configuration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.configuration = read
}

// config takes GET /dayfly/v1/config: it answers with the configuration, with after once
// that has another revision, and with 204 when it waited for too long.
func (a *API) config(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	read := a.configuration
	a.mu.Unlock()
	if read == nil {
		refuseCall(w, &wire.Error{Code: wire.CodeConflict, Message: "the instance has no function yet, and so no configuration"})
		return
	}
	after := r.URL.Query().Get("after")
	if after == "" {
		current, _, err := read(r.Context())
		answerConfig(w, current, err)
		return
	}
	select {
	case a.polling <- struct{}{}:
		defer func() { <-a.polling }()
	default:
		refuseCall(w, wire.Errorf(wire.CodeThrottled, "%d questions of this instance wait for a change of its configuration already; ask once and share the answer", maxPolls))
		return
	}
	limit := time.NewTimer(pollBound)
	defer limit.Stop()
	for {
		current, changed, err := read(r.Context())
		if err != nil || current.Revision != after {
			answerConfig(w, current, err)
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-a.ended:
			refuseGone(w)
			return
		case <-r.Context().Done():
			refuseGone(w)
			return
		}
	}
}

func answerConfig(w http.ResponseWriter, c functions.Config, err error) {
	if err != nil {
		refuseCall(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c) //nolint:errchkjson // text only; and the function may have died
}
