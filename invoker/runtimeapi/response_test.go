package runtimeapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

const httpIntegration = "application/vnd.awslambda.http-integration-response"

// took is what an event's Take was given.
type took struct {
	streamed bool
	head     wire.StreamHead
	body     string
	err      error
}

// taking is an event whose large and streamed responses are sent to the channel.
func taking(inline, limit int64) (runtimeapi.Event, <-chan took) {
	all := make(chan took, 1)
	return runtimeapi.Event{ID: id, Payload: []byte("1"), Inline: inline, Limit: limit, StreamLimit: limit, Take: func(_ context.Context, r *runtimeapi.Response) error {
		body, err := io.ReadAll(r)
		all <- took{r.Streamed, r.Head, string(body), err}
		return err
	}}, all
}

// stream posts a response as a function that streams it.
func (b *bench) stream(kind string, body io.Reader, trailer http.Header) (reply, error) {
	request, err := http.NewRequestWithContext(b.tb.Context(), http.MethodPost, base+"invocation/"+string(id)+"/response", struct{ io.Reader }{body})
	must(b.tb, err)
	request.Header.Set("Content-Type", kind)
	request.Header.Set("Lambda-Runtime-Function-Response-Mode", "streaming")
	request.Trailer = trailer
	response, err := b.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, data}, err
}

func TestOnlyLargeResponsesArePassedOn(t *testing.T) {
	b := open(t)
	for body, passed := range map[string]bool{"1234": false, "12345": true} {
		e, all := taking(4, 100)
		done := b.invoke(t.Context(), e)
		b.next()
		if got := b.respond(id, body); got.status != http.StatusAccepted {
			t.Fatalf("status %d", got.status)
		}
		got := b.await(done)
		want := []byte(body)
		if passed {
			want = nil
			if diff := cmp.Diff(took{body: body}, <-all, cmp.AllowUnexported(took{})); diff != "" {
				t.Error(diff)
			}
		}
		if got.err != nil || !bytes.Equal(got.result, want) {
			t.Errorf("%q, %v", got.result, got.err)
		}
	}
	e, _ := taking(4, 10)
	done := b.invoke(t.Context(), e)
	b.next()
	b.respond(id, "12345678901")
	wantFunctionError(t, b.await(done).err, "Function.ResponseSizeTooLarge")
}

func TestStreamedResponses(t *testing.T) {
	nul := strings.Repeat("\x00", 8)
	long := strings.Repeat("x", 100<<10)
	for name, test := range map[string]struct {
		kind, body string
		want       took
	}{
		"plain":        {"text/csv", "a,b", took{streamed: true, head: wire.StreamHead{ContentType: "text/csv"}, body: "a,b"}},
		"empty":        {"text/csv", "", took{streamed: true, head: wire.StreamHead{ContentType: "text/csv"}}},
		"http":         {httpIntegration, "{}" + nul + long, took{streamed: true, head: wire.StreamHead{HTTP: true, Status: 200, Headers: map[string]string{}}, body: long}},
		"long prelude": {httpIntegration, `{"statusCode":404,"headers":{"x":"` + long[:50<<10] + `"}}` + nul, took{streamed: true, head: wire.StreamHead{HTTP: true, Status: 404, Headers: map[string]string{"X": long[:50<<10]}}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			e, all := taking(wire.MaxEvent, wire.MaxEvent)
			done := b.invoke(t.Context(), e)
			b.next()
			got, err := b.stream(test.kind, strings.NewReader(test.body), nil)
			if err != nil || got.status != http.StatusAccepted {
				t.Fatalf("%d, %v", got.status, err)
			}
			if got := b.await(done); got.err != nil || got.result != nil {
				t.Errorf("%q, %v", got.result, got.err)
			}
			if diff := cmp.Diff(test.want, <-all, cmp.AllowUnexported(took{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestStreamLimit: what a function streams has a limit of its own.
func TestStreamLimit(t *testing.T) {
	for body, fits := range map[string]bool{"123456": true, "1234567": false} {
		b := open(t)
		e, all := taking(2, 4)
		e.StreamLimit = 6
		done := b.invoke(t.Context(), e)
		b.next()
		if _, err := b.stream("text/plain", strings.NewReader(body), nil); err != nil {
			t.Fatal(err)
		}
		got := b.await(done)
		if !fits {
			wantFunctionError(t, got.err, "Function.ResponseSizeTooLarge")
		} else if took := <-all; got.err != nil || took.body != body {
			t.Errorf("%q, %v", took.body, got.err)
		}
	}
}

func TestMalformedPreludes(t *testing.T) {
	nul := strings.Repeat("\x00", 8)
	for _, body := range []string{"", "{}", nul, "[]" + nul, `{"statusCode":99}` + nul, `{"statusCode":"a"}` + nul, `{"headers":{"a":[]}}` + nul, strings.Repeat("x", 1<<20)} {
		b := open(t)
		e, _ := taking(wire.MaxEvent, wire.MaxEvent)
		done := b.invoke(t.Context(), e)
		b.next()
		if _, err := b.stream(httpIntegration, strings.NewReader(body), nil); err != nil {
			t.Fatal(err)
		}
		wantFunctionError(t, b.await(done).err, "Function.InvalidHTTPResponse")
	}
}

func TestErrorInATrailer(t *testing.T) {
	b := open(t)
	e, all := taking(wire.MaxEvent, wire.MaxEvent)
	done := b.invoke(t.Context(), e)
	b.next()
	_, err := b.stream("text/plain", strings.NewReader("some"), http.Header{
		"Lambda-Runtime-Function-Error-Type": {"Oops"},
		"Lambda-Runtime-Function-Error-Body": {base64.StdEncoding.EncodeToString([]byte(`{"errorMessage":"no more","errorType":"Oops"}`))},
	})
	must(t, err)
	if e := wantFunctionError(t, b.await(done).err, "Oops"); e.Message != "no more" {
		t.Errorf("message %q", e.Message)
	}
	if got := <-all; got.body != "some" || got.err == nil {
		t.Errorf("%+v", got)
	}
	done = b.invoke(t.Context(), runtimeapi.Event{ID: other})
	b.next()
	b.respond(other, "1") // it goes on
	if got := b.await(done); got.err != nil {
		t.Error(got.err)
	}
}

// TestWhoHangsInAResponse is waited for no longer than the context.
func TestWhoHangsInAResponse(t *testing.T) {
	b := open(t)
	began := make(chan struct{})
	e := runtimeapi.Event{ID: id, StreamLimit: 100, Take: func(_ context.Context, r *runtimeapi.Response) error {
		close(began)
		_, err := io.ReadAll(r)
		return err
	}}
	late := errors.New("late")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := b.invoke(ctx, e)
	b.next()
	reader, writer := io.Pipe()
	posted := make(chan struct{})
	go func() {
		defer close(posted)
		_, _ = b.stream("text/plain", reader, nil) // it is cut off
	}()
	<-began
	b.pending(done)
	cancel(late)
	if got := b.await(done); !errors.Is(got.err, late) {
		t.Errorf("error %v", got.err)
	}
	must(t, writer.Close())
	<-posted
}

// TestProcessThatEndsInAResponse: the answer is how it ended.
func TestProcessThatEndsInAResponse(t *testing.T) {
	b := open(t)
	began := make(chan struct{})
	e := runtimeapi.Event{ID: id, StreamLimit: 100, Take: func(_ context.Context, r *runtimeapi.Response) error {
		close(began)
		_, err := io.ReadAll(r)
		return err
	}}
	done := b.invoke(t.Context(), e)
	b.next()
	conn := b.raw("POST /2018-06-01/runtime/invocation/" + string(id) + "/response HTTP/1.1\r\nHost: x\r\n" +
		"Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
	<-began
	must(t, conn.Close())
	b.End()
	if got := b.await(done); !errors.Is(got.err, runtimeapi.ErrEnded) {
		t.Errorf("error %v", got.err)
	}
}

// TestFailureOfWhoTakes is the call's, and not the function's.
func TestFailureOfWhoTakes(t *testing.T) {
	b := open(t)
	full := errors.New("disk full")
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Inline: 1, Limit: 10, Take: func(context.Context, *runtimeapi.Response) error { return full }})
	b.next()
	wantRefusal(t, b.respond(id, "12345"), http.StatusInternalServerError, "ResponseNotTaken")
	if got := b.await(done); !errors.Is(got.err, full) {
		t.Errorf("error %v", got.err)
	}
}

// TestEventFromElsewhere is read on its way, anew for each delivery.
func TestEventFromElsewhere(t *testing.T) {
	b := open(t)
	const text = `"an event"`
	opened := 0
	e := runtimeapi.Event{ID: id, Size: int64(len(text)), Deadline: time.Now().Add(time.Minute), Open: func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(text)), nil
	}}
	done := b.invoke(t.Context(), e)
	if got := b.next(); string(got.body) != text || got.header.Get("Content-Length") != "10" || opened != 1 {
		t.Errorf("%q, %v, opened %d times", got.body, got.header, opened)
	}
	b.respond(id, "1")
	b.await(done)

	gone := wire.Errorf(wire.CodeUnavailable, "S3 is away")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"not there": func() (io.ReadCloser, error) { return nil, gone },
		"too short": func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(`"an`)), nil },
	} {
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Size: int64(len(text)), Open: open})
		if _, err := b.do(t.Context(), http.MethodGet, base+"invocation/next", nil, nil); err == nil {
			t.Errorf("%s: the function got an event", name)
		}
		if got := b.await(done); got.err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
