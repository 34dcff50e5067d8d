package invoker

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/entry"
	"github.com/dayfly-run/dayfly/wire"
)

// imageProgram is the file that an image's container starts with.
const imageProgram = "dayfly"

// prepareImages makes the folder that holds the program for images, and returns "" on
// a node that cannot run any.
func (inv *Invoker) prepareImages() string {
	if inv.cfg.Program == "" {
		return ""
	}
	dir := filepath.Join(inv.cfg.DataDir, "images")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.Chmod(dir, 0o755) // whatever the umask is
	}
	if err == nil {
		err = entry.Place(inv.cfg.Program, filepath.Join(dir, imageProgram))
	}
	if err != nil {
		inv.log.Warn("this node runs no functions of runtime image", telemetry.KeyError, err)
		return ""
	}
	return dir
}

// runsImages says whether the node can run users' own images.
func (inv *Invoker) runsImages() bool { return inv.stems.launch.imageDir != "" }

// checkImage refuses an image that cannot run here.
func (inv *Invoker) checkImage(v functions.Version) error {
	switch {
	case v.Spec.Runtime != functions.RuntimeImage:
		return nil
	case v.Image == nil:
		return wire.Errorf(wire.CodeInternal, "version %s has no image; deploy the function again", v.VersionID)
	case !inv.runsImages():
		return wire.Errorf(wire.CodeNoCapacity, "node %s runs no images; its log says why", inv.cfg.Node)
	case v.Image.Arch != runtime.GOARCH:
		return wire.Errorf(wire.CodeNoCapacity, "the image of %s is for %s, and node %s is %s", v.VersionID, v.Image.Arch, inv.cfg.Node, runtime.GOARCH)
	}
	return nil
}

// assignImage tells the program that waits in an image's container what it becomes.
func (in *instance) assignImage(own map[string]string) error {
	image := in.version.Image
	data, err := entry.Assignment{Args: image.Command, Env: in.imageEnvironment(own), Dir: image.WorkDir}.Encode()
	if err == nil {
		_, err = in.script.Write(data)
	}
	return errors.Join(err, in.script.Close())
}

// imageEnvironment is all that an image's process sees: what stems have, over that what
// the image sets, but for the platform's own, and over that the function's.
func (in *instance) imageEnvironment(own map[string]string) []string {
	env := map[string]string{}
	set := func(variables []string, only func(name string) bool) {
		for _, v := range variables {
			if name, value, _ := strings.Cut(v, "="); only(name) {
				env[name] = value
			}
		}
	}
	platform := in.launch.environment(in.id)
	set(platform, func(string) bool { return true })
	set(in.version.Image.Env, func(string) bool { return true })
	set(platform, func(name string) bool {
		return strings.HasPrefix(name, "AWS_LAMBDA_") || strings.HasPrefix(name, "DAYFLY_")
	})
	maps.Copy(env, own)
	if env["_HANDLER"] == "" { // the image's own command says it
		delete(env, "_HANDLER")
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}
