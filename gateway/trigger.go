package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// httpEvent is what a function gets of an HTTP request: the Lambda function-URL
// event, payload format 2.0.
//
// https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
type httpEvent struct {
	Version               string            `json:"version"`
	RouteKey              string            `json:"routeKey"`
	RawPath               string            `json:"rawPath"`
	RawQueryString        string            `json:"rawQueryString"`
	Cookies               []string          `json:"cookies,omitempty"`
	Headers               map[string]string `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters,omitempty"`
	RequestContext        requestContext    `json:"requestContext"`
	Body                  *string           `json:"body,omitempty"`
	IsBase64Encoded       bool              `json:"isBase64Encoded"`
}

type requestContext struct {
	AccountID    string      `json:"accountId"`
	APIID        string      `json:"apiId"`
	DomainName   string      `json:"domainName"`
	DomainPrefix string      `json:"domainPrefix"`
	HTTP         requestHTTP `json:"http"`
	RequestID    string      `json:"requestId"`
	RouteKey     string      `json:"routeKey"`
	Stage        string      `json:"stage"`
	Time         string      `json:"time"`
	TimeEpoch    int64       `json:"timeEpoch"`
}

type requestHTTP struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Protocol  string `json:"protocol"`
	SourceIP  string `json:"sourceIp"`
	UserAgent string `json:"userAgent"`
}

// serveHTTPTrigger runs a function for an HTTP request.
func (g *Gateway) serveHTTPTrigger(w http.ResponseWriter, r *http.Request) {
	id, err := intake.NewID()
	if err == nil {
		err = g.trigger(w, r, id)
	}
	if err != nil {
		httpapi.WriteProblem(w, err, id)
	}
}

// trigger answers the request, or returns an error and has written nothing.
func (g *Gateway) trigger(w http.ResponseWriter, r *http.Request, id wire.InvocationID) error {
	_, v, err := g.resolve(refParam(r))
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	event, err := encodeEvent(newHTTPEvent(r, id, v, body, time.Now()), body)
	if err != nil {
		return err
	}
	if wantsAsync(r) {
		return g.accept(w, r, v, intake.Request{
			Event: wire.Event{Invocation: id}, Payload: event,
			// The event also tells the time and the ID of this request.
			Same: []byte(r.Method + " " + r.URL.RequestURI() + "\n" + string(body)),
		})
	}
	stream := &streamedAnswer{w: w, id: id, version: v}
	result, err := g.invoke(w, r, id, v, event, stream)
	if stream.began {
		stream.end(err)
		return nil
	}
	if err != nil {
		return err
	}
	answer, err := parseHTTPResult(result.Body)
	if err != nil {
		return err
	}
	answer.write(w)
	return nil
}

// encodeEvent writes an event as JSON. A text whose escapes take more room than
// base64 travels in base64 as well.
func encodeEvent(e httpEvent, body []byte) ([]byte, error) {
	for {
		var encoded bytes.Buffer
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(e); err != nil {
			return nil, wire.AsError(err)
		}
		switch {
		case encoded.Len() <= wire.MaxEvent:
			return bytes.TrimSuffix(encoded.Bytes(), []byte("\n")), nil
		case e.Body == nil || e.IsBase64Encoded:
			return nil, bodyTooLarge()
		}
		text := base64.StdEncoding.EncodeToString(body)
		e.Body, e.IsBase64Encoded = &text, true
	}
}

// bodyTimeout bounds how long a caller may take to send an event.
const bodyTimeout = time.Minute

// boundBody bounds reading the request's body from now on. The returned function
// ends that: the connection is also where a caller's leaving is seen.
func boundBody(w http.ResponseWriter, limit time.Duration) (done func()) {
	control := http.NewResponseController(w)
	// Not every writer can; a test's recorder has no connection.
	_ = control.SetReadDeadline(time.Now().Add(limit))
	return func() { _ = control.SetReadDeadline(time.Time{}) }
}

// readBody reads a request's body up to the limit of a synchronous call.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > wire.MaxSyncPayload {
		return nil, bodyTooLarge()
	}
	defer boundBody(w, bodyTimeout)()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxSyncPayload))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, bodyTooLarge()
	}
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "the request's body could not be read: %s", err)
	}
	return body, nil
}

func bodyTooLarge() error {
	return wire.Errorf(wire.CodeTooLarge, "the request's body is over %d bytes; put large data into S3 and send its key", wire.MaxSyncPayload)
}

// rawPath is what follows the function's name in the URL, as it was sent.
func rawPath(u *url.URL) string {
	parts := strings.SplitN(u.EscapedPath(), "/", 4) // "", f, NAME, the rest
	if len(parts) < 4 {
		return "/"
	}
	return "/" + parts[3]
}

// newHTTPEvent describes a request to a function. The path is what follows the
// function's name.
func newHTTPEvent(r *http.Request, id wire.InvocationID, v functions.Version, body []byte, now time.Time) httpEvent {
	path := rawPath(r.URL)
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	prefix, _, _ := strings.Cut(r.Host, ".")
	e := httpEvent{
		Version: "2.0", RouteKey: "$default", RawPath: path, RawQueryString: r.URL.RawQuery,
		Headers: make(map[string]string, len(r.Header)+1),
		RequestContext: requestContext{
			AccountID: "anonymous", APIID: v.FunctionID.String(), DomainName: r.Host, DomainPrefix: prefix,
			HTTP: requestHTTP{
				Method: r.Method, Path: path, Protocol: r.Proto, SourceIP: host, UserAgent: r.UserAgent(),
			},
			RequestID: string(id), RouteKey: "$default", Stage: "$default",
			Time: now.UTC().Format("02/Jan/2006:15:04:05 -0700"), TimeEpoch: now.UnixMilli(),
		},
	}
	e.Headers["host"] = r.Host
	for name, values := range r.Header {
		if name == "Cookie" {
			for _, line := range values {
				for cookie := range strings.SplitSeq(line, ";") {
					if cookie = strings.TrimSpace(cookie); cookie != "" {
						e.Cookies = append(e.Cookies, cookie)
					}
				}
			}
			continue
		}
		e.Headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	if r.URL.RawQuery != "" {
		// A query that cannot be read whole is there as rawQueryString.
		e.QueryStringParameters = map[string]string{}
		for name, values := range r.URL.Query() {
			e.QueryStringParameters[name] = strings.Join(values, ",")
		}
	}
	if len(body) > 0 {
		text := string(body)
		if !isText(r.Header.Get("Content-Type")) || !utf8.Valid(body) {
			text, e.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
		}
		e.Body = &text
	}
	return e
}

// isText reports whether a body of that content type goes into the event as it is.
// Anything else travels in base64, as with Lambda.
func isText(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch kind {
	case "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
		"application/x-ndjson", "application/yaml", "application/graphql":
		return true
	}
	return strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml")
}

// httpAnswer is a function's result as an HTTP response.
type httpAnswer struct {
	status  int
	header  http.Header
	cookies []string
	body    []byte
}

// httpResult is the shape in which a function says what to answer.
type httpResult struct {
	StatusCode        json.RawMessage     `json:"statusCode"`
	Headers           map[string]any      `json:"headers"` // any, with numbers as they were written
	MultiValueHeaders map[string][]string `json:"multiValueHeaders"`
	Cookies           []string            `json:"cookies"`
	Body              json.RawMessage     `json:"body"`
	IsBase64Encoded   bool                `json:"isBase64Encoded"`
}

// parseHTTPResult reads a function's result. An object with a statusCode says what
// to answer; anything else is the body of a 200. What cannot be an HTTP response is
// the function's failure.
func parseHTTPResult(result []byte) (httpAnswer, error) {
	plain := httpAnswer{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}, body: result}
	if !bytes.HasPrefix(bytes.TrimLeft(result, " \t\r\n"), []byte("{")) {
		return checkSize(plain)
	}
	var said httpResult
	decoder := json.NewDecoder(bytes.NewReader(result))
	decoder.UseNumber()
	if err := decoder.Decode(&said); err != nil {
		// A plain result may have a field of ours with a type of its own.
		var shape struct {
			StatusCode json.RawMessage `json:"statusCode"`
		}
		if json.Unmarshal(result, &shape) != nil || shape.StatusCode == nil {
			return checkSize(plain)
		}
		return httpAnswer{}, badResult("%s", err)
	}
	if said.StatusCode == nil {
		return checkSize(plain)
	}
	status, err := strconv.Atoi(string(said.StatusCode))
	if err != nil || status < 200 || status > 599 {
		return httpAnswer{}, badResult("statusCode is %s; use 200 to 599", said.StatusCode)
	}
	a := httpAnswer{status: status, header: http.Header{}, cookies: said.Cookies}
	for name, value := range said.Headers {
		switch value.(type) {
		case nil:
		case string, json.Number, bool:
			a.header.Set(name, fmt.Sprint(value))
		default:
			return httpAnswer{}, badResult("the header %q is no string", name)
		}
	}
	for name, values := range said.MultiValueHeaders {
		a.header[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	if a.body, err = decodeBody(said.Body, said.IsBase64Encoded); err != nil {
		return httpAnswer{}, err
	}
	if len(a.body) > 0 && a.header.Get("Content-Type") == "" {
		a.header.Set("Content-Type", "application/json")
	}
	return checkSize(a)
}

// decodeBody returns the bytes of a body: a string's, decoded where it says so, or
// the JSON of anything else.
func decodeBody(raw json.RawMessage, encoded bool) ([]byte, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] != '"' {
		return raw, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, badResult("the body: %s", err)
	}
	if !encoded {
		return []byte(text), nil
	}
	body, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, badResult("the body is not the base64 that isBase64Encoded promises: %s", err)
	}
	return body, nil
}

func checkSize(a httpAnswer) (httpAnswer, error) {
	if len(a.body) > wire.MaxSyncPayload {
		return httpAnswer{}, resultTooLarge()
	}
	return a, nil
}

func resultTooLarge() error {
	return &wire.Error{
		Code: wire.CodeFunctionError, Type: "Function.ResponseSizeTooLarge",
		Message: "the function's result is over " + strconv.Itoa(wire.MaxSyncPayload) + " bytes; store large results as output files",
	}
}

func badResult(format string, args ...any) error {
	return &wire.Error{
		Code: wire.CodeFunctionError, Type: "Function.InvalidHTTPResponse",
		Message: "the function's result is no HTTP response: " + fmt.Sprintf(format, args...),
	}
}

// notForwarded are headers that belong to this connection and not to the function.
var notForwarded = []string{"Connection", "Content-Length", "Keep-Alive", "Trailer", "Transfer-Encoding", "Upgrade"}

func (a httpAnswer) write(w http.ResponseWriter) {
	for _, name := range notForwarded {
		a.header.Del(name)
	}
	h := w.Header()
	for name, values := range a.header {
		if !strings.HasPrefix(name, "Dayfly-") { // what those say is ours to say
			h[name] = values
		}
	}
	for _, c := range a.cookies {
		h.Add("Set-Cookie", c)
	}
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client may be gone
}
