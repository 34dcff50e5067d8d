package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/wire"
)

// problem is a [wire.Problem] as huma answers it.
type problem struct{ wire.Problem }

func (p problem) Error() string             { return p.Detail }
func (p problem) GetStatus() int            { return p.Status }
func (p problem) ContentType(string) string { return wire.ProblemType }

func newProblem(err error) error { return problem{httpapi.NewProblem(err, "")} }

// setHumaErrors makes huma's own errors problems too. huma has this hook for the
// whole process only.
var setHumaErrors = sync.OnceFunc(func() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		reasons := []string{message}
		for _, err := range errs {
			reasons = append(reasons, err.Error())
		}
		// What huma refuses by itself is the request's fault.
		code := wire.CodeInvalid
		if status >= http.StatusInternalServerError {
			code = wire.CodeInternal
		}
		return problem{httpapi.NewProblem(wire.Errorf(code, "%s", strings.Join(reasons, "; ")), "")}
	}
})

// routeManagement adds the management API; its OpenAPI document is made from the
// types of the handlers.
func (g *Gateway) routeManagement() {
	setHumaErrors()
	config := huma.DefaultConfig("Dayfly", g.deps.Build)
	config.Info.Description = "Management API of Dayfly. Errors are RFC 9457 problem documents with a stable code."
	config.CreateHooks = nil // no $schema in answers
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "/v1/openapi", "", ""
	api := humachi.New(g.router, config)

	huma.Register(api, operation(http.MethodGet, "/v1/functions", "listFunctions", "List functions"), g.listFunctions)
	huma.Register(api, operation(http.MethodGet, "/v1/functions/{ref}", "getFunction", "Describe a function and the version that the reference means"), g.getFunction)
	remove := operation(http.MethodDelete, "/v1/functions/{ref}", "deleteFunction", "Delete a function and its versions")
	remove.DefaultStatus = http.StatusNoContent
	huma.Register(api, remove, g.deleteFunction)
	huma.Register(api, operation(http.MethodGet, "/v1/invocations/{id}", "getInvocation", "What is known of an invocation"), g.getInvocation)
	huma.Register(api, operation(http.MethodGet, "/v1/functions/{ref}/invocations", "listInvocations", "List the newest invocations of a function"), g.listInvocations)
	huma.Register(api, operation(http.MethodPost, "/v1/invocations/{id}/cancel", "cancelInvocation",
		"End an invocation: one that waits is dropped, one that runs is killed"), g.cancelInvocation)
	g.routeDeadLetters(api)
	g.routeNodes(api)
	huma.Register(api, operation(http.MethodGet, "/v1/roles", "listRoles", "List the processes of the cluster that answer"), g.listRoles)

	g.routeHealth(api)
	g.routeEvents(api)
	g.routeRuntimes(api)
	g.routeConfig(api)
	g.routeSecrets(api)
	g.routeBundles(api)
	g.routeVersions(api)

	// These carry raw bytes or stay open; the document describes them by hand.
	for _, raw := range []struct {
		op     huma.Operation
		handle rawHandler
	}{
		{rawOperation(http.MethodPost, "/v1/functions", "deployFunction",
			"Deploy a bundle: a gzip-compressed tar with dayfly.yaml in it", "application/gzip", "application/json", http.StatusCreated,
			query("namespace", huma.TypeString, "Where the function goes; default by default"),
			query("live", huma.TypeBoolean, "Make the version live once an instance of it has started; true by default"),
			query("vendor", huma.TypeBoolean, "Fetch no dependencies: they are in the bundle"),
			query("bundle", huma.TypeString, "The digest of a bundle that was uploaded before; there is no body then")), g.deploy},
		{rawOperation(http.MethodPost, "/v1/functions/{ref}/invocations", "invokeFunction",
			"Run a function with the body as its event; the answer is its result", "application/json", "application/json", http.StatusOK), g.invokeRaw},
		{rawOperation(http.MethodGet, "/v1/functions/{ref}/logs", "readLogs",
			"Read or follow what a function printed, one entry a line", "", "application/x-ndjson", http.StatusOK, logParameters()...), g.readLogs},
		{rawOperation(http.MethodGet, "/v1/invocations/{id}/output", "getOutput",
			"The stored result of an invocation", "", "application/json", http.StatusOK), g.getOutput},
		{rawOperation(http.MethodGet, "/v1/invocations/{id}/output/{path}", "getOutputFile",
			"A file that an invocation left; the path may have slashes", "", "application/octet-stream", http.StatusOK), g.getOutputFile},
		{rawOperation(http.MethodGet, "/v1/manifest.schema.json", "getManifestSchema",
			"The JSON schema of "+functions.ManifestName+", for editors", "", "application/schema+json", http.StatusOK), getManifestSchema},
	} {
		api.OpenAPI().AddOperation(&raw.op)
		g.router.Method(raw.op.Method, strings.Replace(raw.op.Path, "{path}", "*", 1), raw.handle)
	}
}

// rawHandler answers, or returns an error before it has written anything.
type rawHandler func(http.ResponseWriter, *http.Request) error

func (h rawHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h(w, r); err != nil {
		httpapi.WriteProblem(w, err, wire.InvocationID(w.Header().Get(wire.HeaderInvocation)))
	}
}

func operation(method, path, id, summary string) huma.Operation {
	return huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary, Errors: []int{http.StatusNotFound}}
}

// query describes a parameter of a URL's query.
func query(name, kind, doc string) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: kind}}
}

func rawOperation(method, path, id, summary, accepts, answers string, status int, parameters ...*huma.Param) huma.Operation {
	op := operation(method, path, id, summary)
	binary := map[string]*huma.MediaType{}
	if accepts != "" {
		binary[accepts] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
		op.RequestBody = &huma.RequestBody{Content: binary, Required: true}
	}
	op.Responses = map[string]*huma.Response{
		strconv.Itoa(status): {Description: http.StatusText(status), Content: map[string]*huma.MediaType{answers: {}}},
		"default":            {Description: "Problem", Content: map[string]*huma.MediaType{wire.ProblemType: {}}},
	}
	op.Parameters = parameters
	for _, name := range pathParameters(path) {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: name, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString},
		})
	}
	return op
}

func pathParameters(path string) []string {
	var names []string
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

type functionList struct {
	Body struct {
		Functions []functions.Function `json:"functions"`
	}
}

func (g *Gateway) listFunctions(_ context.Context, in *struct {
	Namespace string `query:"namespace" doc:"Only this namespace"`
}) (*functionList, error) {
	out := &functionList{}
	out.Body.Functions = g.cache.List(in.Namespace)
	return out, nil
}

type refInput struct {
	Ref string `path:"ref" doc:"name[.namespace][:version-or-alias]" example:"resize.team-a:live"`
}

type functionDetail struct {
	Body struct {
		Function functions.Function `json:"function"`
		Version  functions.Version  `json:"version"`
	}
}

func (g *Gateway) getFunction(_ context.Context, in *refInput) (*functionDetail, error) {
	f, v, err := g.resolveBy(in.Ref, functions.MainDraw)
	if err != nil {
		return nil, newProblem(err)
	}
	out := &functionDetail{}
	out.Body.Function, out.Body.Version = f, v
	return out, nil
}

func (g *Gateway) deleteFunction(ctx context.Context, in *refInput) (*struct{}, error) {
	ref, err := wire.ParseRef(in.Ref)
	if err == nil && strings.Contains(in.Ref, ":") {
		err = wire.Errorf(wire.CodeInvalid, "name the function without a version: %s", ref.FunctionID)
	}
	if err != nil {
		return nil, newProblem(invalid(err))
	}
	before := g.triggersOf(ref.FunctionID)
	revision, err := g.deps.Registry.Delete(ctx, ref.FunctionID, time.Now())
	if err == nil {
		err = g.cache.Await(ctx, revision)
	}
	if err = g.forgetSettings(ctx, ref.FunctionID, err); err != nil {
		return nil, newProblem(err)
	}
	g.prune(ctx, ref.FunctionID, before, nil)
	g.log.Info("function deleted", "function", ref.FunctionID.String())
	return nil, nil //nolint:nilnil // no body, which huma answers as 204
}

// invalid gives an error without a code the code invalid.
func invalid(err error) error {
	if _, coded := errors.AsType[*wire.Error](err); coded {
		return err
	}
	return wire.Errorf(wire.CodeInvalid, "%s", err)
}
