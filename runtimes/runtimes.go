// Package runtimes knows what a function runs in: for every language the root
// file system of its container, the command that starts it, and the shim that
// speaks the Runtime API for it. It makes root file systems out of Debian
// packages, so that no container registry is needed.
package runtimes

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"runtime"
	"slices"

	"github.com/dayfly-run/dayfly/wire"
)

// ShimFolder is where a container sees the folder that [WriteShims] wrote.
const ShimFolder = "/opt/dayfly"

// Suite is the Debian release that root file systems are made of.
const Suite = "bookworm"

//go:embed recipe/setup.sh
var setupScript []byte

//go:embed recipe/customize.sh
var customizeScript []byte

// Runtime says what a language needs: the packages of its root file system and
// the command that runs in it. It is a value; copies are independent but for
// the slices, which nobody may change.
type Runtime struct {
	// Name is what a manifest calls it.
	Name string
	// Packages are the Debian packages of the root, without those that they
	// depend on.
	Packages []string
	// Command starts the function's process. It waits for events on its own.
	Command []string
	// Shim says that Command is one of our shims: it asks the Runtime API which
	// function it runs, once its language is loaded. Any other command must be
	// started when the function is there.
	Shim bool
	// StemBytes is about what a container takes in memory that runs no function yet.
	StemBytes int64

	root  string
	image wire.Digest
}

// ImageName is what a manifest calls the runtime of users' own images.
const ImageName = "image"

// imageStemBytes is what the program takes that waits in an image's stem.
const imageStemBytes = 8 << 20

// All returns every runtime that has a root of ours, by name. The slice is the
// caller's.
func All() []Runtime {
	binary := []string{"/var/task/bootstrap"}
	// Python's root has pip as one file of 2 MB, so that packages are installed by the very
	// interpreter that loads them.
	return []Runtime{
		{Name: "go", root: "base", Packages: basePackages(), Command: binary, StemBytes: 2 << 20},
		{Name: "node", root: "node", Packages: packages("nodejs"), Shim: true, StemBytes: 48 << 20,
			Command: []string{"/usr/bin/node", ShimFolder + "/" + nodeShim}},
		{Name: "provided", root: "base", Packages: basePackages(), Command: binary, StemBytes: 2 << 20},
		{Name: "python", root: "python", Packages: packages("python3", "python3-distutils", "python3-pip-whl"), Shim: true, StemBytes: 16 << 20,
			Command: []string{"/usr/bin/python3", "-s", "-B", ShimFolder + "/" + pythonShim}},
	}
}

// Image returns the runtime of a user's own image, whose root file system has that
// digest. It has no recipe, and the image says its command.
func Image(root wire.Digest) Runtime {
	return Runtime{Name: ImageName, root: ImageName + "-" + string(root[:min(12, len(root))]), image: root, StemBytes: imageStemBytes}
}

// Image returns the digest of the root file system of a user's own image; ok is false
// for all other runtimes.
func (r Runtime) Image() (root wire.Digest, ok bool) { return r.image, r.image != "" }

// Of returns the runtime that a version runs in, by what its manifest calls it and the
// digest of its code, which for an image is that of its root.
func Of(name string, code wire.Digest) (r Runtime, ok bool) {
	if name == ImageName {
		return Image(code), code.Valid()
	}
	return Lookup(name)
}

// Lookup returns the runtime with a root of ours that a manifest calls name.
func Lookup(name string) (r Runtime, ok bool) {
	for _, r := range All() {
		if r.Name == name {
			return r, true
		}
	}
	return Runtime{}, false
}

// StemKey returns the key of the containers that wait for a function of a runtime
// with such a network; empty for a runtime that has none or is not known.
func StemKey(name string, code wire.Digest, network string) string {
	r, ok := Of(name, code)
	if !ok {
		return ""
	}
	return wire.StemKey(r.root, network)
}

// Root returns the name of the root file system that r uses. Runtimes share it.
func (r Runtime) Root() string { return r.root }

// RootDigest returns the digest of the recipe of r's root: packages, Debian
// suite, architecture and build steps. It changes when the recipe does, and is
// the same for runtimes that share a root. It is not a digest of the tar, which
// also depends on the day's package versions.
func (r Runtime) RootDigest() wire.Digest {
	recipe, err := json.Marshal(map[string]any{
		"suite":        Suite,
		"architecture": runtime.GOARCH,
		"packages":     slices.Sorted(slices.Values(r.Packages)),
		"options":      mmdebstrapOptions,
		"setup":        string(setupScript),
		"customize":    string(customizeScript),
	})
	if err != nil { // strings only: cannot happen
		return ""
	}
	sum := sha256.Sum256(recipe)
	return wire.Digest(hex.EncodeToString(sum[:]))
}

// packages returns what every root holds, and more.
func packages(more ...string) []string {
	return append([]string{
		"base-files", "ca-certificates", "coreutils", "dash", "libc-bin", "netbase", "tzdata",
	}, more...)
}

// basePackages is what a shell script needs to be a function.
func basePackages() []string {
	return packages("bash", "curl", "findutils", "grep", "gzip", "jq", "mawk", "sed", "tar")
}
