package dayfly

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// HTTPRequest is the event of an HTTP trigger: AWS Lambda's function URL event,
// payload format 2.0. Header names are in lower case; several values of one
// header or query parameter are joined by commas.
type HTTPRequest struct {
	Version               string            `json:"version"`
	RouteKey              string            `json:"routeKey"`
	RawPath               string            `json:"rawPath"`
	RawQueryString        string            `json:"rawQueryString"`
	Cookies               []string          `json:"cookies,omitempty"`
	Headers               map[string]string `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters,omitempty"`
	RequestContext        RequestContext    `json:"requestContext"`
	Body                  string            `json:"body,omitempty"`
	IsBase64Encoded       bool              `json:"isBase64Encoded"`
}

// RequestContext is what the gateway knows of a request.
type RequestContext struct {
	AccountID    string      `json:"accountId"`
	APIID        string      `json:"apiId"`
	DomainName   string      `json:"domainName"`
	DomainPrefix string      `json:"domainPrefix"`
	HTTP         HTTPDetails `json:"http"`
	RequestID    string      `json:"requestId"`
	RouteKey     string      `json:"routeKey"`
	Stage        string      `json:"stage"`
	Time         string      `json:"time"`
	// TimeEpoch is in milliseconds since 1970.
	TimeEpoch int64 `json:"timeEpoch"`
}

// HTTPDetails are the request line and its sender.
type HTTPDetails struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Protocol  string `json:"protocol"`
	SourceIP  string `json:"sourceIp"`
	UserAgent string `json:"userAgent"`
}

// HTTPResponse becomes the answer to an HTTP request.
type HTTPResponse struct {
	StatusCode      int               `json:"statusCode"`
	Headers         map[string]string `json:"headers,omitempty"`
	Cookies         []string          `json:"cookies,omitempty"`
	Body            string            `json:"body,omitempty"`
	IsBase64Encoded bool              `json:"isBase64Encoded,omitempty"`
}

// BodyBytes returns the request's body as it was sent.
func (r HTTPRequest) BodyBytes() ([]byte, error) {
	if !r.IsBase64Encoded {
		return []byte(r.Body), nil
	}
	body, err := base64.StdEncoding.DecodeString(r.Body)
	if err != nil {
		return nil, fmt.Errorf("the event's body is not base64: %w", err)
	}
	return body, nil
}

// TraceParent returns the W3C trace context that came with the request; empty for none.
func (r HTTPRequest) TraceParent() string { return r.Headers["traceparent"] }

// Query returns the query parameters, with every value of each. A malformed
// part is left out.
func (r HTTPRequest) Query() url.Values {
	values, err := url.ParseQuery(r.RawQueryString)
	if err != nil && values == nil {
		return url.Values{}
	}
	return values
}

// Bytes returns a response with a body of any kind.
func Bytes(status int, contentType string, body []byte) HTTPResponse {
	return HTTPResponse{
		StatusCode: status, Headers: map[string]string{"content-type": contentType},
		Body: base64.StdEncoding.EncodeToString(body), IsBase64Encoded: true,
	}
}

// Text returns a response of plain text.
func Text(status int, body string) HTTPResponse {
	return HTTPResponse{StatusCode: status, Headers: map[string]string{"content-type": "text/plain; charset=utf-8"}, Body: body}
}

// JSON returns a response with v as JSON.
func JSON(status int, v any) (HTTPResponse, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return HTTPResponse{}, fmt.Errorf("write the response as JSON: %w", err)
	}
	return HTTPResponse{StatusCode: status, Headers: map[string]string{"content-type": "application/json"}, Body: string(body)}, nil
}

// StartHTTP serves HTTP requests with h, as [Start] does events; it never returns. The
// request's context is the handler's context of [Start]. A response is sent when it is
// complete, or, from the first [http.Flusher].Flush on, as it is made.
func StartHTTP(h http.Handler) {
	Start(func(ctx context.Context, in HTTPRequest) (HTTPResponse, error) { return serveHTTP(ctx, h, in) })
}

func serveHTTP(ctx context.Context, h http.Handler, in HTTPRequest) (HTTPResponse, error) {
	req, err := in.request(ctx)
	if err != nil {
		return HTTPResponse{}, err
	}
	w := &recorder{ctx: ctx, header: http.Header{}}
	h.ServeHTTP(w, req)
	if w.stream != nil {
		w.Flush()
		return HTTPResponse{}, nil
	}
	return w.response(), nil
}

func (r HTTPRequest) request(ctx context.Context) (*http.Request, error) {
	if r.RequestContext.HTTP.Method == "" {
		return nil, errors.New("the event is not an HTTP request: call the function by its URL")
	}
	body, err := r.BodyBytes()
	if err != nil {
		return nil, err
	}
	target := r.RawPath
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if r.RawQueryString != "" {
		target += "?" + r.RawQueryString
	}
	req, err := http.NewRequestWithContext(ctx, r.RequestContext.HTTP.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("read the event as an HTTP request: %w", err)
	}
	for name, value := range r.Headers {
		req.Header.Set(name, value)
	}
	if len(r.Cookies) > 0 {
		req.Header.Set("Cookie", strings.Join(r.Cookies, "; "))
	}
	req.Host = r.Headers["host"]
	req.RemoteAddr = r.RequestContext.HTTP.SourceIP
	req.RequestURI = target
	return req, nil
}

// recorder is the http.ResponseWriter of [StartHTTP].
type recorder struct {
	ctx    context.Context
	stream *stream // once the response is sent as it is made
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	n, _ := w.body.Write(p) // a buffer takes everything
	if w.stream != nil && w.body.Len() >= flushBytes {
		w.Flush()
	}
	if w.stream != nil && w.stream.err != nil {
		return 0, w.stream.err
	}
	return n, nil
}

// flushBytes is how much of a response that is sent as it is made waits for a Flush.
const flushBytes = 32 << 10

// Flush implements [http.Flusher]. Where a handler is called by a test, and not by
// [StartHTTP], it does nothing.
func (w *recorder) Flush() {
	w.WriteHeader(http.StatusOK)
	if w.stream == nil {
		head := w.head()
		if w.stream = openStream(w.ctx, httpHead{head.StatusCode, head.Headers, head.Cookies}); w.stream == nil {
			return
		}
	}
	w.stream.write(w.body.Bytes())
	w.body.Reset()
}

// head is the response but for its body.
func (w *recorder) head() HTTPResponse {
	body := w.body.Bytes()
	if w.header.Get("Content-Type") == "" && len(body) > 0 {
		w.header.Set("Content-Type", http.DetectContentType(body))
	}
	out := HTTPResponse{StatusCode: w.status, Headers: map[string]string{}, Cookies: w.header.Values("Set-Cookie")}
	for name, values := range w.header {
		if name != "Set-Cookie" {
			out.Headers[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	return out
}

func (w *recorder) response() HTTPResponse {
	w.WriteHeader(http.StatusOK)
	out, body := w.head(), w.body.Bytes()
	if utf8.Valid(body) {
		out.Body = string(body)
	} else {
		out.Body, out.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	return out
}
