package gateway

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// pieceTimeout bounds how long a client may take to read on: one that stands still for
// so long is gone.
const pieceTimeout = time.Minute

// streamedAnswer gives a client an answer that its function sends as it makes it. It
// implements [dispatch.Stream].
type streamedAnswer struct {
	w       http.ResponseWriter
	id      wire.InvocationID
	version functions.Version
	began   bool // the answer's head is on its way: nothing else can be answered any more
	noBody  bool
}

// Begin implements [dispatch.Stream].
func (a *streamedAnswer) Begin(head wire.StreamHead) error {
	a.began = true
	h := a.w.Header()
	setCallHeaders(h, a.id, a.version, wire.InvokeReply{})
	for name, value := range head.Headers {
		name = http.CanonicalHeaderKey(name)
		if !strings.HasPrefix(name, "Dayfly-") { // what those say is ours to say
			h.Set(name, value)
		}
	}
	for _, name := range notForwarded {
		h.Del(name)
	}
	for _, c := range head.Cookies {
		h.Add("Set-Cookie", c)
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", cmp.Or(head.ContentType, "application/octet-stream"))
	}
	status := cmp.Or(head.Status, http.StatusOK)
	a.noBody = status == http.StatusNoContent || status == http.StatusNotModified
	a.w.WriteHeader(status)
	return a.flush()
}

// Write implements [dispatch.Stream].
func (a *streamedAnswer) Write(piece []byte) error {
	if a.noBody {
		return nil
	}
	a.setDeadline(time.Now().Add(pieceTimeout))
	if _, err := a.w.Write(piece); err != nil {
		return err
	}
	return a.flush()
}

func (a *streamedAnswer) flush() error {
	a.setDeadline(time.Now().Add(pieceTimeout))
	return http.NewResponseController(a.w).Flush()
}

// setDeadline bounds writing.
func (a *streamedAnswer) setDeadline(at time.Time) {
	// Not every writer can; a test's recorder has no connection.
	_ = http.NewResponseController(a.w).SetWriteDeadline(at)
}

// end closes the answer. After an error it has no end: the client sees it broken off.
func (a *streamedAnswer) end(err error) {
	if err != nil {
		a.setDeadline(time.Unix(1, 0)) // so that no closing chunk gets out
		return
	}
	a.setDeadline(time.Time{})
}
