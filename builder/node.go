package builder

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	packageName = "package.json"
	modulesName = "node_modules"
	npmrcName   = ".npmrc"
	// npmNote is what npm leaves in node_modules of its own.
	npmNote = ".package-lock.json"
	// maxLock bounds package.json and a lock file, in bytes.
	maxLock = 16 << 20
)

// lockNames are the lock files that npm reads, the first one first.
func lockNames() []string { return []string{"npm-shrinkwrap.json", "package-lock.json"} }

// The steps of an npm installation. What packages run when they are installed runs
// without a network, and only if one of them asks for it.
const (
	npm        = "node " + npmMount + "/bin/npm-cli.js "
	npmCI      = npm + "ci --omit=dev --ignore-scripts"
	npmInstall = npm + "install --omit=dev --ignore-scripts --no-save --no-package-lock"
	npmRebuild = npm + "rebuild"
)

// nodePackages installs what package.json asks for as node_modules, and says whether an
// earlier build's could be used.
func (b *Builder) nodePackages(ctx context.Context, t task) (cached bool, err error) {
	if t.vendor {
		return false, nil
	}
	want, err := readPackage(t.dir)
	if err != nil || !want.any {
		return false, err
	}
	if err := applyIgnore(t); err != nil {
		return false, err
	}
	in := input{Kind: "node packages", Tools: []string{"", npmVersion, setting(b.cfg.NpmEnv, "npm_config_registry")}}
	if in.Files, err = digestFiles(t.dir, want.files...); err != nil {
		return false, err
	}
	if in.Tools[0], err = b.rootID(ctx, functions.RuntimeNode); err != nil {
		return false, err
	}
	if want.lock == "" {
		t.say("%s has no package-lock.json beside it: other versions may be installed the next time; make one with npm install", packageName)
	}
	layer, cached, err := b.layer(ctx, t, in, func(dir string) error { return b.npmInstall(ctx, t, want, dir) })
	if err != nil {
		return false, err
	}
	if cached {
		t.say("%s is as it was: its packages are those of an earlier build", packageName)
	}
	if err := os.RemoveAll(filepath.Join(t.dir, modulesName)); err != nil {
		return false, fmt.Errorf("install packages: %w", err)
	}
	return cached, merge(t, layer)
}

// npmInstall fills layer with a folder node_modules.
func (b *Builder) npmInstall(ctx context.Context, t task, want packages, layer string) error {
	tool, err := b.npmTool(ctx)
	if err != nil {
		return err
	}
	cache, release, err := b.openCache(t.namespace)
	if err != nil {
		return err
	}
	defer release()
	dir, tmp := filepath.Join(t.work, "want"), filepath.Join(t.work, "tmp")
	if err := errors.Join(makeFolder(dir), makeFolder(tmp)); err != nil {
		return err
	}
	for _, name := range want.files {
		if err := copyFiles(t.dir, dir, name); err != nil {
			return err
		}
	}
	if err := giveAway(dir, tmp); err != nil {
		return err
	}
	job := Job{
		ID: t.id + "-npm", Runtime: functions.RuntimeNode, WorkDir: wantMount, Script: npmCI,
		Folders: map[string]Folder{
			wantMount: {Path: dir, Writable: true}, npmMount: {Path: tool},
			cacheMount: {Path: cache, Writable: true}, tmpMount: {Path: tmp, Writable: true},
		},
		Env: []string{
			"PATH=/usr/bin:/bin", "HOME=" + tmpMount, "TMPDIR=" + tmpMount, "LC_ALL=C.UTF-8", "NO_COLOR=1", "NODE_EXTRA_CA_CERTS=" + certificates,
			"npm_config_cache=" + cacheMount + "/npm", "npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false",
			"npm_config_progress=false", "npm_config_fetch_retries=1", "npm_config_fetch_retry_mintimeout=1000", "npm_config_logs_max=0",
		},
	}
	if want.lock == "" {
		job.Script = npmInstall
	}
	fetch := step{
		Job: job, what: "the packages of " + packageName + " could not be installed", telling: tellsOfNpm,
		index: hostOf(cmp.Or(want.registry, setting(b.cfg.NpmEnv, "npm_config_registry")), "the registry"), setting: "npm_config_registry",
	}
	fetch.Network, fetch.Env = true, append(slices.Clone(job.Env), b.cfg.NpmEnv...)
	if err := b.run(ctx, t, fetch); err != nil {
		return err
	}
	modules := filepath.Join(dir, modulesName)
	if runsScripts(modules) {
		job.ID, job.Script = t.id+"-scripts", npmRebuild
		if err := b.run(ctx, t, step{Job: job, what: "the install scripts of packages failed, which run without a network", telling: tellsOfNpm}); err != nil {
			return err
		}
	}
	return takeModules(modules, layer)
}

func tellsOfNpm(line string) bool {
	return (strings.HasPrefix(line, "npm error") || strings.HasPrefix(line, "npm ERR!")) &&
		!strings.Contains(line, "complete log of this run") && !strings.Contains(line, "Log files were not written")
}

// runsScripts says whether npm noted that a package has something to run.
func runsScripts(modules string) bool {
	root, err := os.OpenRoot(modules)
	if err != nil {
		return false
	}
	defer root.Close()
	note, err := readBounded(root, npmNote, maxLock)
	return err == nil && strings.Contains(note, `"hasInstallScript": true`)
}

// takeModules moves what npm made. The folder was a container's to write in.
func takeModules(modules, layer string) error {
	info, err := os.Lstat(modules)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // all was optional, and for other machines
	}
	if err != nil || !info.IsDir() {
		return wire.Errorf(wire.CodeInvalid, "npm left no folder %s", modulesName)
	}
	if err := os.Remove(filepath.Join(modules, npmNote)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install packages: %w", err)
	}
	return os.Rename(modules, filepath.Join(layer, modulesName))
}

// packages is what the builder must know of package.json and its lock file.
type packages struct {
	any  bool
	lock string // its name; empty without one
	// registry is the one that the bundle's own settings name.
	registry string
	// files are all files and folders of the bundle that decide what is installed.
	files []string
}

// readPackage reads package.json, if there is one.
func readPackage(dir string) (want packages, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return want, err
	}
	defer root.Close()
	if _, err := root.Lstat(packageName); err != nil {
		return want, nil // there is none
	}
	text, err := readBounded(root, packageName, maxLock)
	if err != nil {
		return want, err
	}
	var manifest struct {
		Dependencies         map[string]json.RawMessage `json:"dependencies"`
		OptionalDependencies map[string]json.RawMessage `json:"optionalDependencies"`
		Workspaces           json.RawMessage            `json:"workspaces"`
	}
	if err := json.Unmarshal([]byte(text), &manifest); err != nil {
		return want, wire.Errorf(wire.CodeInvalid, "%s: %s", packageName, err)
	}
	want.any = len(manifest.Dependencies)+len(manifest.OptionalDependencies) > 0 || manifest.Workspaces != nil
	want.files = []string{packageName, npmrcName}
	for _, name := range lockNames() {
		if _, err := root.Lstat(name); err != nil {
			continue
		}
		lock, err := readBounded(root, name, maxLock)
		if err != nil {
			return want, err
		}
		want.lock, want.files, text = name, append(want.files, name), text+lock
		break
	}
	if _, err := root.Lstat(npmrcName); err == nil {
		settings, err := readBounded(root, npmrcName, maxLock)
		if err != nil {
			return want, err
		}
		for line := range strings.Lines(settings) {
			if key, value, _ := strings.Cut(line, "="); strings.TrimSpace(key) == "registry" {
				want.registry = strings.TrimSpace(value)
			}
		}
	}
	// Packages of the bundle itself can be anywhere in it.
	if manifest.Workspaces != nil || strings.Contains(text, `"file:`) || strings.Contains(text, `"link": true`) {
		want.files = []string{"."}
	}
	return want, nil
}
