package dayflytest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

// handler serves the Runtime API and what Dayfly adds to it.
func (p *Platform) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", p.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{how}", p.finish)
	mux.HandleFunc("GET /dayfly/v1/config", p.tellConfig)
	mux.HandleFunc("POST /dayfly/v1/invoke/{ref}", p.invoke)
	mux.HandleFunc("POST /dayfly/v1/publish/{subject}", p.publish)
	return mux
}

func (p *Platform) next(w http.ResponseWriter, r *http.Request) {
	select {
	case e := <-p.events:
		h := w.Header()
		h.Set("Lambda-Runtime-Aws-Request-Id", e.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(e.deadline.UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:dayfly:lambda:local:default:function:test:1")
		h.Set("Lambda-Runtime-Trace-Id", "Root="+e.id)
		_, _ = w.Write(e.payload) // a function that is gone does not answer
	case <-p.stopped:
	case <-r.Context().Done():
	}
}

func (p *Platform) finish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	p.mu.Lock()
	e := p.running[r.PathValue("id")]
	delete(p.running, r.PathValue("id"))
	p.mu.Unlock()
	if err != nil || e == nil {
		http.Error(w, "no such invocation", http.StatusBadRequest)
		return
	}
	got := outcome{result: body}
	if r.PathValue("how") == "error" {
		var report struct {
			ErrorMessage, ErrorType string
			StackTrace              []string
		}
		_ = json.Unmarshal(body, &report) // what is no report has no message
		got = outcome{err: &dayfly.Error{
			Code: "function.error", Message: report.ErrorMessage, Type: report.ErrorType, Trace: report.StackTrace, Invocation: e.id,
		}}
	}
	w.WriteHeader(http.StatusAccepted)
	e.answer <- got
}

func (p *Platform) tellConfig(w http.ResponseWriter, r *http.Request) {
	revision, values, changed := p.currentConfig()
	for revision == r.URL.Query().Get("after") {
		select {
		case <-changed:
			revision, values, changed = p.currentConfig()
		case <-p.stopped:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-r.Context().Done():
			return
		}
	}
	answer(w, http.StatusOK, map[string]any{"revision": revision, "values": values})
}

// caller is the running invocation that asks; what asks in no invocation's name is
// refused, as Dayfly does.
func (p *Platform) caller(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	id = r.Header.Get("Dayfly-Invocation")
	p.mu.Lock()
	_, ok = p.running[id]
	p.mu.Unlock()
	if !ok {
		refuse(w, http.StatusConflict, &dayfly.Error{Code: "conflict", Message: "no invocation runs: a function calls others and publishes only while it handles an event"})
	}
	return id, ok
}

func (p *Platform) invoke(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	id, ok := p.caller(w, r)
	if err != nil || !ok {
		return
	}
	ref, async := r.PathValue("ref"), r.URL.Query().Get("async") == "true"
	p.mu.Lock()
	f, known := p.functions[ref]
	p.calls = append(p.calls, Call{Ref: ref, Event: string(body), Async: async, Key: r.Header.Get("Idempotency-Key"), Invocation: id})
	p.mu.Unlock()
	if !known {
		refuse(w, http.StatusNotFound, &dayfly.Error{Code: "not_found", Message: "there is no function " + ref + "; give the test one with Handle"})
		return
	}
	called := p.begin(body).id
	if async {
		answer(w, http.StatusAccepted, map[string]string{"id": called})
		return
	}
	result, err := f(body)
	if err != nil {
		var e *dayfly.Error
		if !errors.As(err, &e) {
			e = &dayfly.Error{Code: "function.error", Message: err.Error(), Type: "errorString", Invocation: called}
		}
		refuse(w, http.StatusBadGateway, e)
		return
	}
	w.Header().Set("Dayfly-Invocation", called)
	answer(w, http.StatusOK, result)
}

func (p *Platform) publish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if _, ok := p.caller(w, r); err != nil || !ok {
		return
	}
	p.mu.Lock()
	p.published = append(p.published, Message{Subject: r.PathValue("subject"), Data: string(body)})
	p.mu.Unlock()
	answer(w, http.StatusAccepted, map[string]string{"status": "OK"})
}

// answer writes v as JSON. Who asked may be gone.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func refuse(w http.ResponseWriter, status int, e *dayfly.Error) {
	answer(w, status, map[string]any{
		"status": status, "code": e.Code, "detail": e.Message, "errorType": e.Type, "trace": e.Trace, "logs": e.Logs,
		"invocation": e.Invocation, "retryable": e.Retryable, "retryAfterMillis": e.RetryAfter.Milliseconds(),
	})
}
