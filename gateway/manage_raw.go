package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// uploadTimeout bounds sending a bundle, and cleanupTimeout removing it.
	uploadTimeout  = 10 * time.Minute
	cleanupTimeout = 10 * time.Second
)

// removeBundle removes an upload, even when its request is over.
func (g *Gateway) removeBundle(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := g.deps.Store.Delete(ctx, key); err != nil {
		g.log.Warn("bundle left behind", "key", key, telemetry.KeyError, err)
	}
}

// invokeRaw passes the body to the function as it is, and its result back.
func (g *Gateway) invokeRaw(w http.ResponseWriter, r *http.Request) error {
	_, v, err := g.resolve(refParam(r))
	if err != nil {
		return err
	}
	if wantsAsync(r) && (r.ContentLength < 0 || r.ContentLength > wire.MaxSyncPayload) {
		return g.acceptLarge(w, r, v)
	}
	event, err := readBody(w, r)
	if err != nil {
		return err
	}
	if len(event) == 0 {
		event = []byte("{}") // as Lambda does
	}
	if err := checkJSON(event); err != nil {
		return err
	}
	if wantsAsync(r) {
		return g.accept(w, r, v, intake.Request{Payload: event})
	}
	id, err := intake.NewID()
	if err != nil {
		return err
	}
	result, err := g.invoke(w, r, id, v, event, nil)
	if err != nil {
		return err
	}
	if len(result.Body) > wire.MaxSyncPayload {
		return resultTooLarge()
	}
	w.Header().Set("Content-Type", "application/json")
	if result.Reply.Streamed { // it need not be JSON
		w.Header().Set("Content-Type", cmp.Or(result.Reply.ContentType, "application/octet-stream"))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(result.Body)))
	_, _ = w.Write(result.Body) //nolint:gosec // it is what its content type says; and the client may be gone
	return nil
}

// checkJSON fails with the place where an event stops being JSON.
func checkJSON(event []byte) error {
	if json.Valid(event) {
		return nil
	}
	var value json.RawMessage
	err := json.Unmarshal(event, &value)
	at := ""
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = fmt.Sprintf(" (byte %d)", syntax.Offset)
	}
	return wire.Errorf(wire.CodeInvalid, "the event is no JSON: %s%s; other data goes to /f/NAME", err, at)
}

// cuttable ends when the client goes or the gateway cuts what is left.
func (g *Gateway) cuttable(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(g.calls, func() { cancel(context.Cause(g.calls)) })
	return ctx, func() { stop(); cancel(nil) }
}

func getManifestSchema(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/schema+json")
	_, _ = w.Write(functions.ManifestSchema()) // the client may be gone
	return nil
}

func (g *Gateway) getOutput(w http.ResponseWriter, r *http.Request) error {
	return g.serveOutput(w, r, wire.OutputResultKey)
}

func (g *Gateway) getOutputFile(w http.ResponseWriter, r *http.Request) error {
	path := chi.URLParam(r, "*")
	if r.URL.RawPath != "" { // chi then gives it as it was sent
		plain, err := url.PathUnescape(path)
		if err != nil {
			return wire.Errorf(wire.CodeInvalid, "the path of the output file is not well escaped: %s", err)
		}
		path = plain
	}
	// A path that climbs would lead to what is not this invocation's.
	if !fs.ValidPath(path) || path == "." {
		return wire.Errorf(wire.CodeInvalid, "%q is not the path of an output file; GET /v1/invocations/{id} lists them", path)
	}
	return g.serveOutput(w, r, func(f wire.FunctionID, id wire.InvocationID) string {
		return wire.OutputFileKey(f, id, path)
	})
}

func (g *Gateway) serveOutput(w http.ResponseWriter, r *http.Request, key func(wire.FunctionID, wire.InvocationID) string) error {
	id, err := parseInvocation(chi.URLParam(r, "id"))
	if err != nil {
		return err
	}
	rec, err := g.record(r.Context(), id)
	if err != nil {
		return err
	}
	if rec.Output == nil {
		return wire.Errorf(wire.CodeNotFound,
			"invocation %s stored no output; set output: {store: true} in %s", rec.Invocation, functions.ManifestName)
	}
	object, err := g.deps.Store.Get(r.Context(), key(rec.Version.FunctionID, rec.Invocation))
	if errors.Is(err, blob.ErrNotFound) {
		return wire.Errorf(wire.CodeNotFound, "invocation %s has no such output; GET /v1/invocations/%s lists it", rec.Invocation, rec.Invocation)
	}
	if err != nil {
		return wire.Errorf(wire.CodeUnavailable, "the output could not be read: %s", err)
	}
	defer func() { _ = object.Close() }()
	w.Header().Set("Content-Type", object.ContentType)
	w.Header().Set("X-Content-Type-Options", "nosniff") // a function's bytes, on our address
	w.Header().Set("Content-Length", strconv.FormatInt(object.Size, 10))
	if _, err := io.Copy(w, object); err != nil {
		g.log.Debug("output broken off", telemetry.KeyInvocation, string(rec.Invocation), telemetry.KeyError, err)
	}
	return nil
}

// refParam is the function reference of a URL. Chi keeps escapes where the URL has
// an encoded slash; a reference has none, so what cannot be decoded is refused later.
func refParam(r *http.Request) string {
	ref := chi.URLParam(r, "ref")
	if plain, err := url.PathUnescape(ref); err == nil {
		return plain
	}
	return ref
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return wire.AsError(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client may be gone
	return nil
}

// baseURL is how the client reached us.
func baseURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}
