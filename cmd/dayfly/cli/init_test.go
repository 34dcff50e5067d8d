package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/functions"
)

// begin runs `dayfly init` into a folder and returns it.
func begin(t *testing.T, runtime string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "My Greeter")
	root := newRoot()
	root.SetOut(t.Output())
	root.SetErr(t.Output())
	root.SetIn(strings.NewReader(""))
	root.SetArgs([]string{"init", dir, "--runtime", runtime})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTemplates: what init writes has a manifest that is right, and its test passes.
func TestTemplates(t *testing.T) {
	for runtime, test := range map[string]string{
		"python": "python3 -m unittest", "node": "node --test", "go": "go test ./greeting", "provided": "sh test.sh", "image": "go test .",
	} {
		t.Run(runtime, func(t *testing.T) {
			dir := begin(t, runtime)
			data, err := os.ReadFile(filepath.Join(dir, functions.ManifestName))
			if err != nil {
				t.Fatal(err)
			}
			manifest, err := functions.ParseManifest(data)
			if err != nil || manifest.Name != "my-greeter" || manifest.Spec.Runtime != runtime {
				t.Errorf("manifest: %+v, %v", manifest, err)
			}
			words := strings.Fields(test)
			runIn(t, dir, words[0], words[1:]...)
		})
	}
	if got := len(functions.Runtimes()); got != 5 {
		t.Errorf("there are %d runtimes; each needs a template", got)
	}
}

// TestGoTemplateCompiles: with the SDK that the builder gives it.
func TestGoTemplateCompiles(t *testing.T) {
	dir := begin(t, "go")
	sdk, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	runIn(t, dir, "go", "mod", "edit", "-replace=github.com/dayfly-run/dayfly="+sdk, "-require=github.com/dayfly-run/dayfly@v0.0.0")
	runIn(t, dir, "go", "build", "-mod=mod", "-o", os.DevNull, ".")
}

func runIn(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOPROXY=off", "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}
