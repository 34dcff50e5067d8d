package builder

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

// installer is a double of pip and npm that notes its jobs.
type installer struct {
	t    *testing.T
	mu   sync.Mutex
	jobs []Job // guarded by mu
	// install does what the tool would, given the host's folder for each mount.
	install func(job Job, at func(mount string) string) (string, error)
}

func (i *installer) run(_ context.Context, job Job) (string, error) {
	i.mu.Lock()
	i.jobs = append(i.jobs, job)
	i.mu.Unlock()
	return i.install(job, func(mount string) string { return job.Folders[mount].Path })
}

// took returns the jobs since the last time.
func (i *installer) took() []Job {
	i.mu.Lock()
	defer i.mu.Unlock()
	jobs := i.jobs
	i.jobs = nil
	return jobs
}

func write(t *testing.T, dir string, all files) {
	t.Helper()
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Error(err)
		}
	}
}

// TestPythonPackages: they are installed once for what asks for them, whatever else
// changes, and beside the bundle's files, which win.
func TestPythonPackages(t *testing.T) {
	i := &installer{t: t}
	i.install = func(_ Job, at func(string) string) (string, error) {
		if _, err := os.Stat(filepath.Join(at(sourceMount), "more/other.txt")); err != nil {
			t.Error(err)
		}
		write(t, at(layerMount), files{"requests/__init__.py": "theirs", "requests-1.dist-info/METADATA": "m", "own/__init__.py": "theirs"})
		return "Successfully installed\n", nil
	}
	w := newWorkshop(t, i.run, func(c *Config) { c.PipEnv = []string{"PIP_INDEX_URL=https://index.example/simple"} })
	all := files{
		"dayfly.yaml": python, "app.py": "1", "own/__init__.py": "mine", "notes.md": "left out", ".dayflyignore": "*.md\nrequests\n",
		"requirements.txt": "# " + rand.Text() + "\n-r more/other.txt\n", "more/other.txt": "requests==1\n",
	}
	want := files{
		"dayfly.yaml": python, "app.py": "1", "own/__init__.py": "mine", "requirements.txt": all["requirements.txt"], "more/other.txt": all["more/other.txt"],
		"requests/__init__.py": "theirs", "requests-1.dist-info/METADATA": "m",
	}
	first := w.build(all)
	if diff := cmp.Diff(want, w.artifact(first)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if first.Cached || first.Log != "Successfully installed\n[dayfly: own is in the folder as well; that one is used]\n" {
		t.Errorf("%+v", first)
	}
	jobs := i.took()
	if len(jobs) != 1 {
		t.Fatalf("jobs %+v", jobs)
	}
	if job := jobs[0]; !job.Network || job.Runtime != "python" || job.Folders[sourceMount].Writable || !job.Folders[layerMount].Writable ||
		!slices.Contains(job.Env, "PIP_INDEX_URL=https://index.example/simple") || !strings.Contains(job.Script, "--only-binary :all:") {
		t.Errorf("job %+v", job)
	}
	all["app.py"], want["app.py"] = "2", "2"
	second := w.build(all)
	if diff := cmp.Diff(want, w.artifact(second)); diff != "" || !second.Cached || len(i.took()) != 0 {
		t.Errorf("%+v, files (-want +got):\n%s", second, diff)
	}
	all["more/other.txt"] = "requests==2\n"
	if third := w.build(all); third.Cached || len(i.took()) != 1 {
		t.Errorf("other requirements: %+v", third)
	}
	reply := w.vendored(all)
	if diff := cmp.Diff(all, w.artifact(reply)); diff == "" || len(i.took()) != 0 || reply.Cached {
		t.Errorf("vendored: %+v", reply)
	}
}

// vendored is build with nothing fetched.
func (w *workshop) vendored(all files) wire.BuildReply {
	w.t.Helper()
	return w.ask(wire.BuildRequest{ID: "b1", Vendor: true, Bundle: w.upload(all, slices.Sorted(maps.Keys(all)), time.Unix(1, 0))})
}

// TestOfflineWheels: what is in the folder needs no network.
func TestOfflineWheels(t *testing.T) {
	i := &installer{t: t, install: func(Job, func(string) string) (string, error) { return "", nil }}
	w := newWorkshop(t, i.run)
	reply := w.build(files{"dayfly.yaml": python, "app.py": "", "requirements.txt": "# " + rand.Text() + "\n--no-index\n--find-links=wheels\nx\n", "wheels/x-1-py3-none-any.whl": "zip"})
	if jobs := i.took(); reply.Error != nil || len(jobs) != 1 || jobs[0].Network {
		t.Errorf("%+v with %+v", reply, jobs)
	}
}

func TestRequirements(t *testing.T) {
	for line, want := range map[string]struct {
		requirements
		err string
	}{
		"":                  {requirements{files: []string{"requirements.txt"}}, ""},
		"# none":            {requirements{files: []string{"requirements.txt"}}, ""},
		"requests>=2 # why": {requirements{any: true, files: []string{"requirements.txt"}}, ""},
		"a==1 \\\n --hash=sha256:00 \\\n --hash=sha256:01": {requirements{any: true, files: []string{"requirements.txt"}}, ""},
		"a; python_version < '3'":                          {requirements{any: true, files: []string{"requirements.txt"}}, ""},
		"--no-index\na":                                    {requirements{any: true, offline: true, files: []string{"requirements.txt"}}, ""},
		"-i https://index.example/simple\na":               {requirements{any: true, index: "https://index.example/simple", files: []string{"requirements.txt"}}, ""},
		"--index-url=https://index.example/\r\na":          {requirements{any: true, index: "https://index.example/", files: []string{"requirements.txt"}}, ""},
		"./wheels/x.whl":                                   {requirements{any: true, files: []string{"requirements.txt", "wheels/x.whl"}}, ""},
		"wheels/x.whl ; sys_platform == 'linux'":           {requirements{any: true, files: []string{"requirements.txt", "wheels/x.whl"}}, ""},
		"-f wheels\nx":                                     {requirements{any: true, files: []string{"requirements.txt", "wheels"}}, ""},
		"-f https://index.example/links\nx":                {requirements{any: true, files: []string{"requirements.txt"}}, ""},
		"-rsub/more.txt":                                   {requirements{any: true, files: []string{"requirements.txt", "sub/more.txt", "sub/again.txt"}}, ""},
		"x @ https://index.example/x.whl#sha256=0":         {requirements{any: true, files: []string{"requirements.txt"}}, ""},
		"a[extra]==1\nb ~= 2":                              {requirements{any: true, files: []string{"requirements.txt"}}, ""},
		"a\n-e .":                                          {requirements{}, `requirements.txt, line 2: "." is installed from source`},
		"git+https://example.com/x":                        {requirements{}, "is no wheel"},
		"x @ git+https://example.com/x":                    {requirements{}, "is no wheel"},
		"x @ file:///etc/x.whl":                            {requirements{}, "is no wheel"},
		"https://index.example/x.tar.gz":                   {requirements{}, "is no wheel"},
		"./library":                                        {requirements{}, `"./library" is no wheel`},
		"../x.whl":                                         {requirements{}, "is no file of the bundle"},
		"/etc/x.whl":                                       {requirements{}, "is no file of the bundle"},
		"-r ../x.txt":                                      {requirements{}, "is no file of the bundle"},
		"-r https://example.com/r.txt":                     {requirements{}, "is no file of the bundle"},
		"-r none.txt":                                      {requirements{}, `the bundle has no file "none.txt"`},
		"--no-binary :all:":                                {requirements{}, "only wheels are installed"},
	} {
		dir := t.TempDir()
		write(t, dir, files{"requirements.txt": line, "sub/more.txt": "-c again.txt\n-r more.txt\n", "sub/again.txt": "x\n"})
		got, err := readRequirements(dir)
		if want.err != "" {
			if err == nil || !strings.Contains(err.Error(), want.err) || !wire.HasCode(err, wire.CodeInvalid) {
				t.Errorf("%q: %v, want %s", line, err, want.err)
			}
			continue
		}
		if err != nil || got.any != want.any || got.offline != want.offline || got.index != want.index || !slices.Equal(got.files, want.files) {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want.requirements)
		}
	}
	if got, err := readRequirements(t.TempDir()); got.any || err != nil {
		t.Errorf("none: %+v, %v", got, err)
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "requirements.txt")); err != nil {
		t.Fatal(err)
	}
	if _, err := readRequirements(dir); err == nil {
		t.Error("a link out of the bundle was read")
	}
}

// nodeWorkshop is one whose npm is there already.
func nodeWorkshop(t *testing.T, i *installer) *workshop {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tools", "npm-"+npmVersion), 0o700); err != nil {
		t.Fatal(err)
	}
	return newWorkshop(t, i.run, func(c *Config) {
		c.DataDir, c.NpmEnv = dir, []string{"npm_config_registry=https://registry.example"}
	})
}

// TestNodePackages: they are installed once for a lock file, and their scripts run
// without a network.
func TestNodePackages(t *testing.T) {
	note := `{"packages": {"node_modules/ms": {"version": "1"}}}`
	i := &installer{t: t}
	i.install = func(job Job, at func(string) string) (string, error) {
		if job.Script == npmRebuild {
			write(t, at(wantMount), files{"node_modules/ms/built": "here"})
			return "rebuilt\n", nil
		}
		if _, err := os.Stat(filepath.Join(at(wantMount), "src/index.js")); err == nil {
			t.Error("npm sees what it does not need")
		}
		write(t, at(wantMount), files{"node_modules/ms/index.js": "theirs", "node_modules/.package-lock.json": note})
		return "added 1 package\n", nil
	}
	w := nodeWorkshop(t, i)
	manifest := `{"dependencies": {"ms": "1"}, "description": "` + rand.Text() + `"}`
	all := files{
		"dayfly.yaml": node, "src/index.js": "1", "package.json": manifest, "package-lock.json": "{}", "node_modules/old/index.js": "gone", ".dayflyignore": "*.md\n",
	}
	want := files{"dayfly.yaml": node, "src/index.js": "1", "package.json": manifest, "package-lock.json": "{}", "node_modules/ms/index.js": "theirs"}
	first := w.build(all)
	if diff := cmp.Diff(want, w.artifact(first)); diff != "" || first.Cached || first.Log != "added 1 package\n" {
		t.Errorf("%+v, files (-want +got):\n%s", first, diff)
	}
	jobs := i.took()
	if len(jobs) != 1 || jobs[0].Script != npmCI || !jobs[0].Network || jobs[0].Runtime != "node" ||
		!slices.Contains(jobs[0].Env, "npm_config_registry=https://registry.example") {
		t.Errorf("jobs %+v", jobs)
	}
	all["src/index.js"], want["src/index.js"] = "2", "2"
	second := w.build(all)
	if diff := cmp.Diff(want, w.artifact(second)); diff != "" || !second.Cached || len(i.took()) != 0 {
		t.Errorf("%+v, files (-want +got):\n%s", second, diff)
	}
	// A package with a script, and no lock file.
	delete(all, "package-lock.json")
	note = `{"packages": {"node_modules/ms": {"hasInstallScript": true}}}`
	third := w.build(all)
	if got := w.artifact(third); got["node_modules/ms/built"] != "here" || !strings.Contains(third.Log, "no package-lock.json beside it") {
		t.Errorf("%+v with %v", third, got)
	}
	jobs = i.took()
	if len(jobs) != 2 || jobs[0].Script != npmInstall || jobs[1].Script != npmRebuild || jobs[1].Network ||
		slices.Contains(jobs[1].Env, "npm_config_registry=https://registry.example") {
		t.Errorf("jobs %+v", jobs)
	}
	if reply := w.vendored(all); w.artifact(reply)["node_modules/old/index.js"] != "gone" || len(i.took()) != 0 {
		t.Errorf("vendored: %+v", reply)
	}
}

// TestNodePackagesOfTheBundle: what a package refers to in the folder is there.
func TestNodePackagesOfTheBundle(t *testing.T) {
	i := &installer{t: t, install: func(_ Job, at func(string) string) (string, error) {
		if _, err := os.Stat(filepath.Join(at(wantMount), "lib/package.json")); err != nil {
			t.Error(err)
		}
		if err := os.Mkdir(filepath.Join(at(wantMount), "node_modules"), 0o755); err != nil {
			t.Error(err)
		}
		return "", os.Symlink("../lib", filepath.Join(at(wantMount), "node_modules", "lib"))
	}}
	w := nodeWorkshop(t, i)
	all := files{"dayfly.yaml": node, "src/index.js": rand.Text(), "package.json": `{"dependencies": {"lib": "file:lib"}}`, "lib/package.json": "{}"}
	for _, cached := range []bool{false, true} {
		if reply := w.build(all); reply.Error != nil || reply.Cached != cached {
			t.Errorf("%+v", reply)
		}
	}
}

// TestNodeModulesAreNoFolder: what a script left there is not followed.
func TestNodeModulesAreNoFolder(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, files{npmNote: "keep"})
	i := &installer{t: t, install: func(_ Job, at func(string) string) (string, error) {
		return "", os.Symlink(outside, filepath.Join(at(wantMount), "node_modules"))
	}}
	w := nodeWorkshop(t, i)
	reply := w.build(files{"dayfly.yaml": node, "src/index.js": "", "package.json": `{"dependencies": {"ms": "` + rand.Text() + `"}}`})
	wantFailure(t, reply, wire.CodeInvalid, "npm left no folder")
	if _, err := os.Stat(filepath.Join(outside, npmNote)); err != nil {
		t.Error(err)
	}
}

// TestFailedInstallations: the tool's words lead, and an index that is down is named.
func TestFailedInstallations(t *testing.T) {
	said := ""
	i := &installer{t: t, install: func(Job, func(string) string) (string, error) { return said, ErrJob }}
	w := nodeWorkshop(t, i)
	py := func(more string) files {
		return files{"dayfly.yaml": python, "app.py": "", "requirements.txt": more + "requests\n# " + rand.Text()}
	}
	js := func(npmrc string) files {
		return files{"dayfly.yaml": node, "src/index.js": "", "package.json": `{"dependencies": {"ms": "` + rand.Text() + `"}}`, ".npmrc": npmrc}
	}
	for name, test := range map[string]struct {
		bundle     files
		said, want string
	}{
		"pip":           {py(""), "Collecting x\nERROR: No x\n", "ERROR: No x\nthe packages of requirements.txt could not be installed"},
		"pip, down":     {py(""), "WARNING: Failed to establish a new connection\nERROR: No x\n", "ERROR: No x\nthe packages of requirements.txt could not be installed: pypi.org could not be reached"},
		"another index": {py("-i https://a.example/simple\n"), "ERROR: Max retries exceeded\n", "a.example could not be reached from the build; name another index with PIP_INDEX_URL where the builder is started, or put the dependencies into the folder and deploy with --vendor"},
		"npm":           {js(""), "npm warn x\nnpm error code E\nnpm error A complete log of this run can be found\n", "npm error code E\nthe packages of package.json could not be installed"},
		"npm, down":     {js(""), "npm error code ENOTFOUND\n", "registry.example could not be reached"},
		"own registry":  {js("registry = https://b.example/npm/\n"), "npm error code ENOTFOUND\n", "b.example could not be reached"},
		"says nothing":  {py(""), "", "the packages of requirements.txt could not be installed"},
	} {
		t.Run(name, func(t *testing.T) {
			said = test.said
			reply := w.build(test.bundle)
			wantFailure(t, reply, wire.CodeInvalid, test.want)
			if first, _, _ := strings.Cut(test.want, "\n"); strings.Contains(test.want, "\n") && !strings.HasPrefix(reply.Error.Message, first) {
				t.Errorf("%q does not begin with %q", reply.Error.Message, first)
			}
		})
	}
	for name, bundle := range map[string]files{
		"package.json: ":    {"dayfly.yaml": node, "src/index.js": "", "package.json": "{"},
		"is no wheel":       {"dayfly.yaml": python, "app.py": "", "requirements.txt": "./x"},
		"at most 262144":    {"dayfly.yaml": python, "app.py": "", "requirements.txt": strings.Repeat("#", maxRequirements+1)},
		`no file "more.txt`: {"dayfly.yaml": python, "app.py": "", "requirements.txt": "-r more.txt"},
	} {
		if reply := w.build(bundle); reply.Error == nil || !strings.Contains(reply.Error.Message, name) {
			t.Errorf("%s: %+v", name, reply.Error)
		}
	}
}
