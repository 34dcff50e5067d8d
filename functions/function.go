package functions

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Version is one immutable version of a function: its code and how it runs.
type Version struct {
	wire.VersionID
	Spec Spec `json:"spec"`
	Artifact
	CreatedAt time.Time `json:"createdAt"`
}

// Artifact is what a builder made of a bundle.
type Artifact struct {
	// Code names the artifact in S3; see [wire.CodeKey], and [wire.ImageKey] when
	// Image is set.
	Code wire.Digest `json:"code"`
	// CodeBytes is the size of the artifact, packed.
	CodeBytes int64 `json:"codeBytes"`
	// Image is set for RuntimeImage only.
	Image *wire.Image `json:"image,omitempty"`
}

// Alias is a name that points to a version.
type Alias struct {
	Version int `json:"version"`
}

// Function is a name in a namespace, with its aliases and versions 1 to Latest.
type Function struct {
	wire.FunctionID
	Aliases   map[string]Alias `json:"aliases"`
	Latest    int              `json:"latest"`
	CreatedAt time.Time        `json:"createdAt"`
	UpdatedAt time.Time        `json:"updatedAt"`
	// Deleted marks what a deleted function leaves behind, for its last number.
	Deleted bool `json:"deleted,omitempty"`
}

// Resolve returns the version that a qualifier, a version number or an alias,
// stands for. Otherwise the error is a [*wire.Error] with code not_found that
// lists what the function has.
func (f Function) Resolve(qualifier string) (number int, err error) {
	// An alias may not hide a version, so a number is always read as one.
	if n, isVersion := (wire.Ref{Qualifier: qualifier}).Version(); isVersion {
		if n > f.Latest {
			return 0, wire.Errorf(wire.CodeNotFound, "function %s has no version %d; %s", f.FunctionID, n, f.offers())
		}
		return n, nil
	}
	alias, found := f.Aliases[qualifier]
	if !found {
		return 0, wire.Errorf(wire.CodeNotFound, "function %s has no alias %q; %s", f.FunctionID, qualifier, f.offers())
	}
	return alias.Version, nil
}

// offers says in words which versions and aliases there are.
func (f Function) offers() string {
	if f.Latest == 0 {
		return "it has no versions yet; deploy it first"
	}
	versions := "its only version is 1"
	if f.Latest > 1 {
		versions = "its versions are 1 to " + strconv.Itoa(f.Latest)
	}
	if len(f.Aliases) == 0 {
		return versions + ", it has no aliases"
	}
	names := slices.Sorted(maps.Keys(f.Aliases))
	return versions + ", its aliases: " + strings.Join(names, ", ")
}
