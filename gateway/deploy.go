package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// deployment is the answer to a deploy.
type deployment struct {
	Function functions.Function `json:"function"`
	Version  functions.Version  `json:"version"`
	// Live says that the deploy made its version live, Note why it did not.
	Live bool   `json:"live"`
	Note string `json:"note,omitempty"`
	URL  string `json:"url"`
	// BuildLog is what the build printed; Cached says that nothing was built.
	BuildLog string `json:"buildLog,omitempty"`
	Cached   bool   `json:"cached"`
}

// deployRequest is what the query of a deploy says.
type deployRequest struct {
	namespace    string
	live, vendor bool
}

func deployQuery(r *http.Request) (req deployRequest, err error) {
	query := r.URL.Query()
	req = deployRequest{namespace: wire.DefaultNamespace, live: true}
	if given := query.Get("namespace"); given != "" {
		req.namespace = given
	}
	if !wire.ValidName(req.namespace) {
		return req, wire.Errorf(wire.CodeInvalid, "namespace %q is not valid: use lower-case letters, digits and inner hyphens, at most 63", req.namespace)
	}
	for name, value := range map[string]*bool{"live": &req.live, "vendor": &req.vendor} {
		if text := query.Get(name); text != "" {
			if *value, err = strconv.ParseBool(text); err != nil {
				return req, wire.Errorf(wire.CodeInvalid, "%s=%s: use true or false", name, text)
			}
		}
	}
	return req, nil
}

// deploy takes a bundle, has it built, registers the version and makes it live once an
// instance of it has started. A client that accepts lines is told what the build prints
// while it runs.
func (g *Gateway) deploy(w http.ResponseWriter, r *http.Request) error {
	req, err := deployQuery(r)
	if err != nil {
		return err
	}
	ctx, cancel := g.cuttable(r.Context())
	defer cancel()
	bundle, _, err := g.bundleOf(ctx, w, r)
	if err != nil {
		return err
	}
	if !strings.Contains(r.Header.Get("Accept"), ndjsonType) {
		done, err := g.deployBundle(ctx, req, bundle, func(string) {})
		if err != nil {
			return err
		}
		done.URL = baseURL(r) + "/f/" + done.Function.FunctionID.String()
		return writeJSON(w, http.StatusCreated, done)
	}
	lines := newLineWriter(w)
	done, err := g.deployBundle(ctx, req, bundle, func(text string) { lines.write(deployLine{Log: text}) })
	if err != nil {
		p := httpapi.NewProblem(err, "")
		lines.write(deployLine{Problem: &p})
		return nil
	}
	done.URL = baseURL(r) + "/f/" + done.Function.FunctionID.String()
	lines.write(deployLine{Deployment: &done})
	return nil
}

const ndjsonType = "application/x-ndjson"

// deployLine is a line of a deploy's answer that comes as it goes: logs, and last one of
// the others.
type deployLine struct {
	Log        string        `json:"log,omitempty"`
	Deployment *deployment   `json:"deployment,omitempty"`
	Problem    *wire.Problem `json:"problem,omitempty"`
}

// lineWriter writes an answer in lines, each of which leaves at once.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newLineWriter(w http.ResponseWriter) *lineWriter {
	w.Header().Set("Content-Type", ndjsonType)
	l := &lineWriter{w: w, control: http.NewResponseController(w)}
	_ = l.control.Flush() // the client may be gone, as below
	return l
}

func (l *lineWriter) write(line any) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil {
		return // these types always encode
	}
	_, _ = l.w.Write(buffer.Bytes())
	_ = l.control.Flush()
}

// deployBundle does the work of a deploy. Until the version is registered nothing of it
// can be seen.
func (g *Gateway) deployBundle(ctx context.Context, req deployRequest, bundle string, log func(string)) (deployment, error) {
	built, err := g.build(ctx, wire.BuildRequest{ID: uuid.NewString(), Bundle: bundle, Namespace: req.namespace, Vendor: req.vendor}, log)
	if err != nil {
		g.discardRefused(ctx, bundle, err)
		return deployment{}, err
	}
	manifest, err := functions.ParseManifest(built.Manifest)
	if err != nil {
		return deployment{}, err
	}
	id := wire.FunctionID{Namespace: req.namespace, Name: manifest.Name}
	artifact := functions.Artifact{Code: built.Code, CodeBytes: built.CodeBytes, Image: built.Image, Arch: built.Arch}
	done := deployment{BuildLog: built.Log, Cached: built.Cached}
	if req.live {
		if err := g.requireSecrets(ctx, id, manifest.Spec); err != nil {
			return deployment{}, err
		}
		// This comes first: a trigger that cannot work makes no version.
		if err := g.deps.Sources.Prepare(ctx, id, manifest.Spec.Triggers); err != nil {
			return deployment{}, err
		}
		defer g.tidy(ctx, id, manifest.Spec.Triggers)
	}
	before := g.triggersOf(id)
	registered, err := g.deps.Registry.Register(ctx, id, manifest.Spec, artifact, time.Now())
	if err != nil {
		return deployment{}, err
	}
	done.Function, done.Version = registered.Function, registered.Version
	revision := registered.Revision
	if req.live {
		if err := g.checkStart(ctx, registered.Version, registered.Function); err != nil {
			return deployment{}, err
		}
		promoted, err := g.deps.Registry.Promote(ctx, registered.Version, time.Now())
		if err != nil {
			return deployment{}, err
		}
		done.Function, done.Live, revision = promoted.Function, promoted.Live, promoted.Revision
	}
	if err := g.cache.Await(ctx, revision); err != nil {
		return deployment{}, err
	}
	if done.Live {
		g.prune(ctx, id, before, manifest.Spec.Triggers)
	} else {
		done.Note = whyNotLive(req, done)
	}
	g.log.Info("function deployed", telemetry.KeyFunction, done.Version.String(), "code", string(built.Code), "live", done.Live)
	return done, nil
}

// tidy removes what a deploy set up for triggers that are not those of the live version
// after all.
func (g *Gateway) tidy(ctx context.Context, id wire.FunctionID, set []functions.Trigger) {
	if live := g.triggersOf(id); !sameTriggers(live, set) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		g.prune(ctx, id, set, live)
	}
}

func sameTriggers(a, b []functions.Trigger) bool {
	ids := map[wire.TriggerID]int{}
	for _, t := range a {
		ids[t.ID()]++
	}
	for _, t := range b {
		ids[t.ID()]--
	}
	for _, n := range ids {
		if n != 0 {
			return false
		}
	}
	return true
}

// whyNotLive is what a deploy that left live alone says.
func whyNotLive(req deployRequest, done deployment) string {
	v := done.Version
	live, some := done.Function.Aliases[wire.LiveAlias]
	switch {
	case !req.live && some:
		return "live stays at version " + live.String() + ", as was asked; " + promoteHint(v)
	case !req.live:
		return "no version is live yet, as was asked; " + promoteHint(v)
	case some:
		return "somebody moved live to version " + live.String() + " meanwhile, and it stays there; " + promoteHint(v)
	}
	return "somebody changed the function meanwhile; " + promoteHint(v)
}

// promoteHint is the command that makes a version live.
func promoteHint(v functions.Version) string {
	return "make this one live: dayfly alias set " + v.FunctionID.String() + " live --version " + strconv.Itoa(v.Number)
}
