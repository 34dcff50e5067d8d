// Package dayfly_test keeps the rules that hold for the whole repository: which
// folder may import what, and that the documents point at things that exist.
package dayfly_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dayfly-run/dayfly"

// layers says what each folder may import of this module. A folder that stands
// nowhere in the table is a mistake, and so is an import that its row does not
// list. The longest row that fits counts. "x/..." means the folder x and all below.
var layers = []struct {
	folder string
	may    []string
	reason string
}{
	{"cmd/...", []string{"..."}, "cmd wires everything together; nothing else may know all roles"},
	{"gateway/...", []string{"gateway/...", "functions/...", "runtimes/...", "internal/...", "wire"}, roleReason},
	{"scheduler/...", []string{"scheduler/...", "functions/...", "runtimes/...", "internal/...", "wire"}, roleReason},
	{"scheduler/placement", []string{"wire"}, "placement is a pure function: no clock, no bus, no I/O"},
	{"invoker/...", []string{"invoker/...", "functions/...", "runtimes/...", "internal/...", "wire"}, roleReason},
	{"invoker/pool", []string{"invoker/keepalive", "wire"}, "which instance a call gets and which one goes is pure: no clock, no bus, no I/O"},
	{"invoker/keepalive", []string{"wire"}, "the policy is pure, and the simulator of bench/keepalive runs it as nodes do"},
	// Functions in Go are built with the SDK that the builder carries: no network.
	{"builder/...", []string{"builder/...", "functions/...", "runtimes/...", "sdk/go/source", "internal/...", "wire"}, roleReason},
	{"events/...", []string{"events/...", "functions/...", "runtimes", "internal/...", "wire"}, roleReason},
	{"events/outcome", []string{"functions", "wire"}, "the decision is a pure function: no clock, no bus, no I/O"},
	{"functions/...", []string{"functions/...", "wire"}, "clients read manifests and pack bundles too, and must not get an adapter with it"},
	{"functions/registry/...", []string{"functions", "internal/...", "wire"}, "the registry stands below the roles, which share it"},
	{"functions/settings/...", []string{"functions", "internal/...", "wire"}, "settings stand below the roles, which share them"},
	{"functions/sources/...", []string{"functions", "internal/...", "wire"}, "what triggers listen to is set up by a deploy and mended by the events workers"},
	{"internal/...", []string{"internal/...", "wire"}, "adapters know the outside world, not what a function is"},
	{"wire/...", nil, "wire is the leaf that everything imports, so it imports nothing of ours"},
	{"runtimes/...", []string{"runtimes/...", "sdk/python", "sdk/node", "wire"}, "what runs in the container knows no role; functions find the SDKs there"},
	{"sdk/python", nil, "it only carries its source in another language"},
	{"sdk/node", nil, "it only carries its source in another language"},
	{"sdk/go/...", []string{"sdk/go/..."}, "function authors import it, and must not get the platform with it"},
	{"sdk/client/...", []string{"sdk/client/...", "functions", "functions/bundle", "wire"}, "a client talks to Dayfly over HTTP only"},
	{"examples/...", []string{"sdk/go/..."}, "an example is what a user could have written"},
	{"scripts/...", nil, "scripts must run before the rest compiles"},
	{"bench/...", []string{"..."}, "a benchmark may look at everything; nothing imports it"},
	{"test/...", []string{"..."}, "tests over the whole may use everything; nothing imports them"},
	{".", nil, "the root holds only rules about the repository"},
}

const roleReason = "arrows point down and roles never import each other: they talk by message, so that one binary or many is a choice of cmd alone"

// doors says which folders alone may import a module of others.
var doors = []struct {
	what   []string
	only   []string
	reason string
}{
	{[]string{"github.com/nats-io/nats.go/..."}, []string{"internal/bus/...", "test/..."}, "one place knows how messages travel, and tests over the whole are users who bring their own client"},
	{[]string{"github.com/nats-io/nats-server/..."}, []string{"internal/embed/..."}, "an embedded server is a choice of cmd, and any other server must do as well"},
	{[]string{"github.com/minio/minio-go/..."}, []string{"internal/blob/..."}, "one place knows how objects are stored"},
	{[]string{"github.com/versity/versitygw/..."}, []string{"internal/embed/..."}, "an embedded server is a choice of cmd, and any other S3 must do as well"},
	{[]string{"github.com/docker/...", "github.com/moby/...", "github.com/containerd/..."}, []string{"invoker/sandbox/..."}, "what makes containers is behind the sandbox seam"},
	{[]string{"github.com/spf13/cobra/..."}, []string{"cmd/..."}, "only a command has a command line"},
}

// standardOnly lists folders that may import nothing but the standard library
// and what their row in layers permits.
var standardOnly = []struct{ folder, reason string }{
	{"wire/...", "everything imports wire, so its dependencies would be everybody's"},
	{"sdk/go/...", "its dependencies would be those of every function"},
	{"scheduler/placement", "a pure function needs no library, and the simulator runs it a million times"},
	{"invoker/pool", "a pure decision needs no library"},
	{"invoker/keepalive", "a pure policy needs no library, and the simulator runs it a million times"},
	{"scripts/...", "scripts must run before anything is downloaded"},
}

// nothingNames are names of packages that say nothing and end up holding all.
var nothingNames = []string{"common", "util", "utils", "pkg", "model", "models", "helper", "helpers", "misc", "shared", "base"}

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath   string   `json:"ImportPath"`
	Name         string   `json:"Name"`
	Doc          string   `json:"Doc"`
	GoFiles      []string `json:"GoFiles"`
	Imports      []string `json:"Imports"`
	TestImports  []string `json:"TestImports"`
	XTestImports []string `json:"XTestImports"`
}

// folder is the package's place in the module, "." for the root.
func (p goPackage) folder() string {
	return path.Clean(strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/"))
}

// imports are all that the package's files import, those of its tests as well.
func (p goPackage) imports() []string {
	all := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
	slices.Sort(all)
	return slices.Compact(all)
}

// list asks the go command once for all packages of the module.
func list(t *testing.T) []goPackage {
	t.Helper()
	var stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), "go", "list", "-e",
		"-json=ImportPath,Name,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}

// matches reports whether a folder or import path fits a pattern.
func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	prefix, below := strings.CutSuffix(pattern, "/...")
	return name == prefix || below && strings.HasPrefix(name, prefix+"/")
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, name) })
}

// isStandard reports whether an import is of the standard library: its first
// element has no dot.
func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// violations lists what is wrong with a package, each with the rule's reason.
func violations(p goPackage) []string {
	var found []string
	add := func(reason, format string, args ...any) {
		found = append(found, fmt.Sprintf(format, args...)+" ("+reason+")")
	}
	folder := p.folder()
	for _, imported := range p.imports() {
		ours, isOurs := strings.CutPrefix(imported, module+"/")
		if isOurs {
			if may, reason := layerOf(folder); ours != folder && !matchesAny(may, ours) {
				add(reason, "%s imports %s", folder, ours)
			}
			continue
		}
		for _, door := range doors {
			if matchesAny(door.what, imported) && !matchesAny(door.only, folder) {
				add(door.reason, "%s imports %s, which only %s may", folder, imported, strings.Join(door.only, ", "))
			}
		}
		for _, row := range standardOnly {
			if matches(row.folder, folder) && !isStandard(imported) && !testOnly(p, imported) {
				add(row.reason, "%s imports %s, which is not of the standard library", folder, imported)
			}
		}
	}
	if _, reason := layerOf(folder); reason == "" {
		add("a new room is a decision", "%s stands nowhere in the table of layers", folder)
	}
	if slices.Contains(nothingNames, p.Name) || slices.Contains(nothingNames, path.Base(folder)) {
		add("such a name ends up holding everything", "%s: name the package %q for what it does", folder, p.Name)
	}
	if len(p.GoFiles) > 0 && p.Doc == "" {
		add("nearly every reader starts there", "%s has no package comment", folder)
	}
	return found
}

// testOnly reports whether only the package's tests import it.
func testOnly(p goPackage, imported string) bool { return !slices.Contains(p.Imports, imported) }

// layerOf returns the most exact row for a folder; reason is empty without one.
func layerOf(folder string) (may []string, reason string) {
	longest := -1
	for _, row := range layers {
		if matches(row.folder, folder) && len(row.folder) > longest {
			longest, may, reason = len(row.folder), row.may, row.reason
		}
	}
	return may, reason
}

func TestArchitecture(t *testing.T) {
	t.Parallel()
	packages := list(t)
	if len(packages) == 0 {
		t.Fatal("go list found no package")
	}
	for _, p := range packages {
		for _, violation := range violations(p) {
			t.Error(violation)
		}
	}
}

// TestArchitectureCanFail shows that each kind of rule sees what it is there for.
func TestArchitectureCanFail(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		folder, imported string
		want             string // part of the violation; empty when it is allowed
	}{
		"role imports role":             {"gateway", module + "/invoker/pool", "gateway imports invoker/pool (arrows point down"},
		"role imports command":          {"gateway", module + "/cmd/dayfly", "gateway imports cmd/dayfly"},
		"adapter imports functions":     {"internal/bus", module + "/functions", "internal/bus imports functions"},
		"wire imports ours":             {"wire", module + "/internal/bus", "wire imports internal/bus"},
		"wire imports a library":        {"wire", "github.com/google/uuid", "not of the standard library"},
		"runtimes imports functions":    {"runtimes", module + "/functions", "runtimes imports functions"},
		"sdk imports the platform":      {"sdk/go/dayfly", module + "/wire", "sdk/go/dayfly imports wire"},
		"client imports a role":         {"sdk/client", module + "/gateway", "sdk/client imports gateway"},
		"client gets the bus":           {"sdk/client", module + "/functions/registry", "sdk/client imports functions/registry"},
		"client imports an adapter":     {"sdk/client", module + "/internal/httpapi", "sdk/client imports internal/httpapi"},
		"functions get the bus":         {"functions/bundle", module + "/internal/bus", "functions/bundle imports internal/bus"},
		"placement does I/O":            {"scheduler/placement", module + "/internal/bus", "placement is a pure function"},
		"NATS client beside the bus":    {"scheduler", "github.com/nats-io/nats.go/jetstream", "only internal/bus/..., test/... may"},
		"NATS server in a role":         {"gateway", "github.com/nats-io/nats-server/v2/server", "only internal/embed/... may"},
		"S3 client in a role":           {"builder", "github.com/minio/minio-go/v7", "only internal/blob/... may"},
		"S3 server in a command":        {"cmd/dayfly", "github.com/versity/versitygw/embedgw", "only internal/embed/... may"},
		"container client in a command": {"cmd/dayfly", "github.com/docker/docker/client", "only invoker/sandbox/... may"},
		"command line in a role":        {"gateway", "github.com/spf13/cobra", "only cmd/... may"},
		"unknown folder":                {"stuff", "fmt", "stands nowhere in the table"},
		"empty name":                    {"internal/util", "fmt", "name the package"},
		"command wires roles":           {"cmd/dayfly", module + "/gateway", ""},
		"registry uses the bus":         {"functions/registry", module + "/internal/bus", ""},
		"builder carries the SDK":       {"builder", module + "/sdk/go/source", ""},
		"role uses adapter":             {"gateway", module + "/internal/bus", ""},
		"bus uses NATS":                 {"internal/bus", "github.com/nats-io/nats.go/jetstream", ""},
		"sandbox uses docker":           {"invoker/sandbox/docker", "github.com/docker/docker/client", ""},
		"a prefix is not a folder":      {"wire", "github.com/docker-of-others/x", "not of the standard library"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := violations(goPackage{
				ImportPath: module + "/" + test.folder, Name: path.Base(test.folder), Doc: "Package x.",
				GoFiles: []string{"x.go"}, Imports: []string{test.imported},
			})
			text := strings.Join(got, "\n")
			if test.want == "" && text != "" || !strings.Contains(text, test.want) {
				t.Errorf("violations %q, want %q", text, test.want)
			}
		})
	}
	if got := violations(goPackage{ImportPath: module + "/wire", Name: "wire", GoFiles: []string{"x.go"}}); len(got) != 1 {
		t.Errorf("a package without comment: violations %q", got)
	}
}
