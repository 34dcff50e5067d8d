package runtimeapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxErrorReport bounds the body of an error report, in bytes.
	maxErrorReport = 256 << 10
	// What is kept of an error report, in bytes and frames. A report travels in a
	// frame's header, six bytes for one at worst, and must fit into a message.
	maxErrorMessage = 8 << 10
	maxErrorType    = 256
	maxTrace        = 64
	maxTraceFrame   = 1 << 10
	// small bodies do not wait for others: so much for each event at once is no burden.
	small = 64 << 10
	// trusted is how many bytes are set aside on a Content-Length's word alone.
	trusted = 1 << 20
	// maxDiscard bounds what is read of a body that is too large, so that a client
	// which writes it whole before it reads gets to the answer, in bytes.
	maxDiscard = wire.MaxAsyncPayload
)

// report is the body of an error report.
type report struct {
	Message string   `json:"errorMessage"`
	Type    string   `json:"errorType"`
	Trace   []string `json:"stackTrace"`
}

// readError reads an error report; what is wrong with it never hides the failure
// that it reports.
func (a *API) readError(r *http.Request) *wire.Error {
	rep := report{Type: r.Header.Get("Lambda-Runtime-Function-Error-Type")}
	body, err := a.read(r, maxErrorReport)
	switch {
	case err != nil:
		rep.Message = "the function failed; its error report could not be read: " + err.Error()
	default:
		rep = parseReport(body, rep.Type)
	}
	return failure(rep)
}

// failure is a report as an error, cut to its limits.
func failure(rep report) *wire.Error {
	e := &wire.Error{Code: wire.CodeFunctionError, Message: cut(rep.Message, maxErrorMessage), Type: cut(rep.Type, maxErrorType)}
	if e.Message == "" {
		e.Message = "the function failed without a message"
	}
	for _, frame := range rep.Trace[:min(len(rep.Trace), maxTrace)] {
		e.Trace = append(e.Trace, cut(frame, maxTraceFrame))
	}
	return e
}

// parseReport reads a report's body, which is its message when it is no report.
func parseReport(body []byte, kind string) report {
	var rep report
	if json.Unmarshal(body, &rep) != nil {
		return report{Message: string(body), Type: kind}
	}
	if rep.Type == "" {
		rep.Type = kind
	}
	return rep
}

// cut shortens a text to at most limit bytes of valid UTF-8.
func cut(s string, limit int) string {
	const ellipsis = "…"
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len(ellipsis)], "") + ellipsis
}

// errTooLarge: a body is over its limit.
var errTooLarge = errors.New("it is too large")

// read reads a body of at most limit bytes, large ones one at a time.
func (a *API) read(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > small {
		select {
		case a.reading <- struct{}{}:
			defer func() { <-a.reading }()
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	data, err := readAtMost(r.Body, r.ContentLength, limit)
	if errors.Is(err, errTooLarge) {
		_, _ = io.CopyN(io.Discard, r.Body, maxDiscard) // an error shows when the answer is written
	}
	return data, err
}

// readAtMost reads a body of the length that its client announced, if it did.
func readAtMost(body io.Reader, announced, limit int64) ([]byte, error) {
	switch {
	case announced > limit:
		return nil, errTooLarge
	case announced < 0:
		data, err := io.ReadAll(io.LimitReader(body, limit+1))
		if err == nil && int64(len(data)) > limit {
			return nil, errTooLarge
		}
		return data, err
	}
	data := make([]byte, min(announced, trusted))
	n, err := io.ReadFull(body, data)
	if err == nil && announced > trusted {
		data = append(make([]byte, 0, announced), data...)[:announced]
		_, err = io.ReadFull(body, data[n:])
	}
	return data, err
}
