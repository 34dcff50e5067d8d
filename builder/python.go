package builder

import (
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	requirementsName = "requirements.txt"
	// maxRequirements bounds a file of requirements, in bytes, and maxNested those that
	// one names.
	maxRequirements = 256 << 10
	maxNested       = 64
)

// pipInstall installs wheels only: they are unpacked, where a source package would run
// its own code with a network. pip itself is unpacked into the cache, where Python keeps
// what it compiled of it: from its own wheel it takes seconds to start.
const pipInstall = `
wheel=$(echo /usr/share/python-wheels/pip-*.whl)
if [ ! -e "$wheel" ]; then echo "ERROR: the root file system of python has no pip; rebuild it with: dayfly runtimes rebuild python"; exit 1; fi
tool=` + cacheMount + `/tools/$(basename "$wheel")
if [ ! -e "$tool" ]; then
	mkdir -p ` + cacheMount + `/tools
	new=$(mktemp -d -p ` + cacheMount + `/tools)
	python3 -m zipfile -e "$wheel" "$new"
	mv -T "$new" "$tool" || [ -e "$tool" ]
fi
PYTHONPATH=$tool exec python3 -m pip install --target ` + layerMount + ` --only-binary :all: --no-compile --no-warn-script-location --no-python-version-warning -r ` + requirementsName + "\n"

// pythonPackages installs what requirements.txt asks for beside the bundle's files, and
// says whether an earlier build's could be used.
func (b *Builder) pythonPackages(ctx context.Context, t task) (cached bool, err error) {
	if t.vendor {
		return false, nil
	}
	want, err := readRequirements(t.dir)
	if err != nil || !want.any {
		return false, err
	}
	if err := applyIgnore(t); err != nil {
		return false, err
	}
	in := input{Kind: "python packages", Tools: []string{"", setting(b.cfg.PipEnv, "PIP_INDEX_URL"), setting(b.cfg.PipEnv, "PIP_EXTRA_INDEX_URL")}}
	if in.Files, err = digestFiles(t.dir, want.files...); err != nil {
		return false, err
	}
	if in.Tools[0], err = b.rootID(ctx, functions.RuntimePython); err != nil {
		return false, err
	}
	layer, cached, err := b.layer(ctx, t, in, func(dir string) error { return b.pip(ctx, t, want, dir) })
	if err != nil {
		return false, err
	}
	if cached {
		t.say("%s is as it was: its packages are those of an earlier build", requirementsName)
	}
	return cached, merge(t, layer)
}

func (b *Builder) pip(ctx context.Context, t task, want requirements, layer string) error {
	cache, release, err := b.openCache(t.namespace)
	if err != nil {
		return err
	}
	defer release()
	tmp := filepath.Join(t.work, "tmp")
	if err := makeFolder(tmp); err != nil {
		return err
	}
	if err := giveAway(layer, tmp); err != nil {
		return err
	}
	index := setting(b.cfg.PipEnv, "PIP_INDEX_URL")
	if want.index != "" {
		index = want.index
	}
	s := step{
		Job: Job{
			ID: t.id + "-pip", Runtime: functions.RuntimePython, WorkDir: sourceMount, Script: pipInstall, Network: !want.offline,
			Folders: map[string]Folder{
				sourceMount: {Path: t.dir}, layerMount: {Path: layer, Writable: true},
				cacheMount: {Path: cache, Writable: true}, tmpMount: {Path: tmp, Writable: true},
			},
			Env: append([]string{
				"PATH=/usr/bin:/bin", "HOME=" + tmpMount, "TMPDIR=" + tmpMount, "LC_ALL=C.UTF-8",
				"PIP_CACHE_DIR=" + cacheMount + "/pip", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_NO_INPUT=1", "PIP_PROGRESS_BAR=off",
				"PIP_NO_COLOR=1", "PIP_RETRIES=1", "PIP_DEFAULT_TIMEOUT=15", "PIP_ROOT_USER_ACTION=ignore", "PIP_CERT=" + certificates,
			}, b.cfg.PipEnv...),
		},
		what:    "the packages of " + requirementsName + " could not be installed",
		telling: func(line string) bool { return strings.HasPrefix(line, "ERROR: ") },
	}
	if s.Network {
		s.index, s.setting = hostOf(index, "pypi.org"), "PIP_INDEX_URL"
	}
	return b.run(ctx, t, s)
}

// requirements is what the builder must know of requirements.txt and the files that it
// names.
type requirements struct {
	// any says that something is asked for, offline that no index is.
	any, offline bool
	// index is the one that they name themselves.
	index string
	// files are all files and folders of the bundle that decide what is installed.
	files []string
}

// readRequirements reads requirements.txt, if there is one. What would run code of the
// bundle with a network, or lies outside of the bundle, is refused.
func readRequirements(dir string) (want requirements, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return want, err
	}
	defer root.Close()
	if _, err := root.Lstat(requirementsName); err != nil {
		return want, nil // there is none
	}
	for todo, seen := []string{requirementsName}, map[string]bool{}; len(todo) > 0; todo = todo[1:] {
		name := todo[0]
		if seen[name] {
			continue
		}
		if seen[name] = true; len(seen) > maxNested {
			return want, wire.Errorf(wire.CodeTooLarge, "%s names more than %d other files", requirementsName, maxNested)
		}
		text, err := readBounded(root, name, maxRequirements)
		if err != nil {
			return want, err
		}
		want.files = append(want.files, name)
		more, err := want.read(name, text)
		if err != nil {
			return want, err
		}
		todo = append(todo, more...)
	}
	return want, nil
}

// read takes one file in and returns the files of requirements that it names.
func (r *requirements) read(name, text string) (more []string, err error) {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\\\n", " ")
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if at := strings.Index(" "+line, " #"); at >= 0 {
			line = strings.TrimSpace(line[:at])
		}
		if line == "" {
			continue
		}
		file, err := r.line(line, path.Dir(name))
		if err != nil {
			return nil, wire.Errorf(wire.CodeInvalid, "%s, line %d: %s", name, number, wire.AsError(err).Message)
		}
		if file != "" {
			more = append(more, file)
		}
	}
	return more, nil
}

// line takes one line in, which stands in a file of a folder.
func (r *requirements) line(line, folder string) (file string, err error) {
	if !strings.HasPrefix(line, "-") {
		r.any = true
		return "", r.requirement(line)
	}
	option, value := cutOption(line)
	switch option {
	case "-r", "--requirement", "-c", "--constraint":
		return localName(folder, value)
	case "-f", "--find-links":
		if strings.Contains(value, "://") {
			return "", nil
		}
		links, err := localName(folder, value)
		r.files = append(r.files, links)
		return "", err
	case "--no-index":
		r.offline = true
	case "-i", "--index-url":
		r.index = value
	case "-e", "--editable":
		return "", wire.Errorf(wire.CodeInvalid, "%q is installed from source, which would run its code with a network; build a wheel of it (pip wheel) and name that", value)
	case "--no-binary":
		return "", wire.Errorf(wire.CodeInvalid, "%s asks for source packages, which would run their code with a network; only wheels are installed", option)
	}
	return "", nil
}

// requirement takes one package in.
func (r *requirements) requirement(line string) error {
	what, _, _ := strings.Cut(line, ";")
	_, address, direct := strings.Cut(what, "@")
	switch what = strings.Fields(what + " .")[0]; {
	case direct && strings.Contains(address, "://"), strings.Contains(what, "://"):
		if !direct || !strings.Contains(address, "://") {
			address = what
		}
		plain, _, _ := strings.Cut(strings.Fields(address)[0], "#")
		if scheme, _, _ := strings.Cut(plain, "://"); (scheme != "http" && scheme != "https") || !strings.HasSuffix(plain, ".whl") {
			return wire.Errorf(wire.CodeInvalid, "%q is no wheel; only wheels are installed, as source would run its code with a network", plain)
		}
		return nil
	case strings.HasSuffix(what, ".whl"), strings.HasPrefix(what, "."), strings.Contains(what, "/"):
		name, err := localName(".", what)
		if err == nil && !strings.HasSuffix(name, ".whl") {
			err = wire.Errorf(wire.CodeInvalid, "%q is no wheel; build one of it (pip wheel) and name that", what)
		}
		r.files = append(r.files, name)
		return err
	}
	return nil
}

// cutOption splits -x value, -xvalue, --long value and --long=value.
func cutOption(line string) (option, value string) {
	if !strings.HasPrefix(line, "--") && len(line) > 2 {
		return line[:2], strings.TrimSpace(strings.TrimPrefix(line[2:], "="))
	}
	at := strings.IndexAny(line, "= \t")
	if at < 0 {
		return line, ""
	}
	return line[:at], strings.TrimSpace(strings.TrimLeft(line[at:], "= \t"))
}

// localName is a file of the bundle that is named in one of its folders.
func localName(folder, name string) (string, error) {
	clean := path.Join(folder, name)
	if name == "" || path.IsAbs(name) || strings.Contains(name, "://") || !fs.ValidPath(clean) {
		return "", wire.Errorf(wire.CodeInvalid, "%q is no file of the bundle", name)
	}
	return clean, nil
}
