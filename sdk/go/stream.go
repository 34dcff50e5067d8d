package dayfly

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
)

// maxTrailer bounds the message of a failure in the midst of an answer, in bytes: the
// Runtime API's server takes no long trailers.
const maxTrailer = 512

// clientKey is the context key of the client that an event came by.
type clientKey struct{}

// stream is the body of an answer that is sent as it is made.
type stream struct {
	c   *client
	err error // the first failure: nobody takes the rest
}

// httpHead is what an answer says of itself ahead of its body.
type httpHead struct {
	StatusCode int               `json:"statusCode"`
	Headers    map[string]string `json:"headers"`
	Cookies    []string          `json:"cookies,omitempty"`
}

// openStream begins the answer to the event that ctx is of; nil when it is of none, or
// its connection takes no more.
func openStream(ctx context.Context, head httpHead) *stream {
	c, ok := ctx.Value(clientKey{}).(*client)
	inv, known := FromContext(ctx)
	if !ok || !known || c.conn == nil {
		return nil
	}
	prelude, err := json.Marshal(head)
	if err != nil {
		return nil // it never fails for text
	}
	s := &stream{c: c}
	c.body = s
	s.send([]byte(http.MethodPost + " " + apiPath + "invocation/" + inv.ID + "/response HTTP/1.1\r\nHost: " + c.host +
		"\r\nContent-Type: application/vnd.awslambda.http-integration-response" +
		"\r\nLambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked" +
		"\r\nTrailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n"))
	s.write(append(prelude, make([]byte, 8)...))
	return s
}

// write sends a piece.
func (s *stream) write(piece []byte) {
	if len(piece) == 0 {
		return // it would be the end
	}
	chunk := append(strconv.AppendInt(make([]byte, 0, len(piece)+16), int64(len(piece)), 16), "\r\n"...)
	s.send(append(append(chunk, piece...), "\r\n"...))
}

func (s *stream) send(data []byte) {
	if s.err == nil {
		_, s.err = s.c.conn.Write(data)
	}
}

// endStream ends the answer that is being sent, if there is one, once next or flush is
// called. A report says what went wrong in its midst.
func (c *client) endStream(report *errorReport) bool {
	if c.body == nil {
		return false
	}
	c.body = nil
	c.out = append(c.out, "0\r\n"...)
	if report != nil {
		said := errorReport{Message: report.Message[:min(len(report.Message), maxTrailer)], Type: report.Type, Trace: []string{}}
		if body, err := json.Marshal(said); err == nil { // it never fails for text
			c.out = append(c.out, "Lambda-Runtime-Function-Error-Type: "+headerValue(report.Type)+
				"\r\nLambda-Runtime-Function-Error-Body: "+base64.StdEncoding.EncodeToString(body)+"\r\n"...)
		}
	}
	c.out = append(c.out, "\r\n"...)
	c.owed++
	return true
}
