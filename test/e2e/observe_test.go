package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Point 12: metrics and logs, and the OpenAPI document.

func TestMetrics(t *testing.T) {
	t.Parallel()
	wanted := map[string][]string{
		"gateway":   {`dayfly_gateway_calls_total{code="ok"}`, `dayfly_gateway_calls_total{code="function.error"}`, "dayfly_gateway_call_seconds_count"},
		"scheduler": {`dayfly_scheduler_placements_total{result="ok"}`, "dayfly_scheduler_leading 1", "dayfly_scheduler_nodes 1"},
		"invoker":   {`dayfly_invoker_invocations_total{code="ok"}`, `dayfly_invoker_instance_start_seconds_count{runtime="python"}`, "dayfly_invoker_run_seconds_count"},
		"builder":   {`dayfly_builder_build_seconds_count{result="ok"}`},
	}
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.probe(t)
		p.invoke(t, name, map[string]any{"do": "echo"}).want(t, http.StatusOK)
		p.invoke(t, name, map[string]any{"do": "raise"}).want(t, http.StatusBadGateway)
		for role, lines := range wanted {
			url := p.urls[role]
			if p.setup == "up" {
				url = p.url
			}
			text, err := metrics(url)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range append(lines, "go_goroutines") {
				if !strings.Contains(text, "\n"+line) {
					t.Errorf("%s has no %s", role, line)
				}
			}
		}
	})
}

func metrics(url string) (string, error) {
	a, err := (&platform{url: url}).request(http.MethodGet, "/metrics", nil)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%s/metrics: status %d", url, a.status)
	}
	return string(a.body), err
}

// TestLogsNameTheInvocation: what each role says of one call carries its ID.
func TestLogsNameTheInvocation(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		name := p.aside(t, files{"dayfly.yaml": "name: traced\nruntime: python\nhandler: app.handler\n", "app.py": testdata(t, "probe/app.py")})
		for _, event := range []map[string]any{{"do": "echo"}, {"do": "raise"}} { // the first one is cold
			id := p.invoke(t, name, event).invocation()
			roles := []string{"gateway", "invoker"}
			if event["do"] == "echo" {
				roles = append(roles, "scheduler") // which only a cold call meets
			}
			for _, role := range roles {
				proc := p.procs[role]
				if p.setup == "up" {
					proc = p.procs["up"]
				}
				eventually(t, patience, func() error {
					for _, r := range proc.log.records() {
						if r["invocation"] == id && r["role"] == role {
							return nil
						}
					}
					return fmt.Errorf("%s says nothing of invocation %s", role, id)
				})
			}
		}
	})
}

// TestLogsAreStructured: every line is JSON with the same keys.
func TestLogsAreStructured(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		p.invoke(t, p.probe(t), map[string]any{"do": "echo"}).want(t, http.StatusOK)
		for _, proc := range p.procs {
			lines, records := proc.log.all(), proc.log.records()
			if len(lines) == 0 {
				t.Errorf("%s logs nothing", proc.name)
			}
			if len(records) < len(lines) {
				t.Errorf("%s: %d of %d lines are no JSON", proc.name, len(lines)-len(records), len(lines))
			}
			for _, line := range lines {
				if strings.Count(line, `,"role":"`) > 1 { // most readers take the last one
					t.Errorf("%s: two roles in %s", proc.name, line)
				}
			}
			for _, r := range records {
				for _, key := range []string{"time", "level", "msg", "role"} {
					if _, ok := r[key].(string); !ok {
						t.Errorf("%s: no %s in %v", proc.name, key, r)
					}
				}
			}
		}
	})
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, p *platform) {
		t.Parallel()
		doc := decode[struct {
			OpenAPI string                    `json:"openapi"`
			Paths   map[string]map[string]any `json:"paths"`
		}](t, p.do(t, http.MethodGet, "/v1/openapi.json", nil))
		for _, want := range []string{
			"get /v1/functions", "post /v1/functions", "get /v1/functions/{ref}", "delete /v1/functions/{ref}",
			"post /v1/functions/{ref}/invocations", "get /v1/functions/{ref}/logs", "get /v1/invocations/{id}",
			"get /v1/invocations/{id}/output", "get /v1/nodes",
		} {
			method, path, _ := strings.Cut(want, " ")
			if doc.Paths[path][method] == nil {
				t.Errorf("no %s in the document", want)
			}
		}
	})
}
