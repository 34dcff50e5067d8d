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
	// Arch is what it was made for, as Go names it: programs and libraries in it run
	// nowhere else. It is empty for an artifact that runs anywhere.
	Arch string `json:"arch,omitempty"`
}

// PlaceRequest asks for a node for one more instance of the version. Id is the call that
// waits, if one does; stem the key of the stems that would do. Its map is the version's
// own and is read only.
func (v Version) PlaceRequest(id wire.InvocationID, stem string) wire.PlaceRequest {
	return wire.PlaceRequest{
		Invocation: id, Version: v.VersionID, Runtime: v.Spec.Runtime, Code: v.Code, Stem: stem,
		Needs: v.Spec.Needs(), MaxInstances: v.Spec.MaxInstances,
		Selector: v.Spec.NodeSelector, Arch: v.Arch, Protocol: wire.Protocol,
	}
}

// Function is a name in a namespace, with its aliases and versions. How it changes is
// in this package's methods, which are pure; the registry makes them atomic.
type Function struct {
	wire.FunctionID
	Aliases map[string]Alias `json:"aliases"`
	// Versions are the numbers of those that are there, in rising order; see
	// [wire.MaxVersions]. Latest is the highest number that there ever was.
	Versions []int `json:"versions"`
	Latest   int   `json:"latest"`
	// Previous is the version that was live before the one that is; 0 for none.
	Previous int `json:"previous,omitempty"`
	// Decided is the highest number whose deploy may not make it live any more: a
	// deploy made it, or one after it, live, or somebody moved live by hand since.
	Decided int `json:"decided,omitempty"`
	// GivenUp is the highest number up to which no deploy may list its version any more.
	GivenUp   int       `json:"givenUp,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	// Deleted marks what a deleted function leaves behind, for its last number.
	Deleted bool `json:"deleted,omitempty"`
}

// Has reports whether a version is there.
func (f Function) Has(number int) bool {
	_, found := slices.BinarySearch(f.Versions, number)
	return found
}

// Resolve returns the version that a qualifier, a version number or an alias,
// stands for. Of an alias that splits its calls the draw, 0 to 99, decides; with
// [MainDraw] it is the main version. Otherwise the error is a [*wire.Error] with code
// not_found that lists what the function has.
func (f Function) Resolve(qualifier string, draw int) (number int, err error) {
	// An alias may not hide a version, so a number is always read as one.
	if n, isVersion := (wire.Ref{Qualifier: qualifier}).Version(); isVersion {
		if !f.Has(n) {
			return 0, f.noVersion(n)
		}
		return n, nil
	}
	alias, found := f.Aliases[qualifier]
	if !found {
		return 0, f.noAlias(qualifier)
	}
	return alias.Pick(draw), nil
}

func (f Function) noVersion(number int) error {
	return wire.Errorf(wire.CodeNotFound, "function %s has no version %d; %s", f.FunctionID, number, f.offers())
}

func (f Function) noAlias(name string) error {
	return wire.Errorf(wire.CodeNotFound, "function %s has no alias %q; %s", f.FunctionID, name, f.offers())
}

// offers says in words which versions and aliases there are.
func (f Function) offers() string {
	if len(f.Versions) == 0 {
		return "it has no versions yet; deploy it first"
	}
	if len(f.Aliases) == 0 {
		return f.offersVersions() + ", it has no aliases"
	}
	names := slices.Sorted(maps.Keys(f.Aliases))
	return f.offersVersions() + ", its aliases: " + strings.Join(names, ", ")
}

// offersVersions writes neighbours as a range: 1 to 3, 7, 9 to 12.
func (f Function) offersVersions() string {
	if len(f.Versions) == 1 {
		return "its only version is " + strconv.Itoa(f.Versions[0])
	}
	var ranges []string
	for i := 0; i < len(f.Versions); {
		first := f.Versions[i]
		last := first
		for i++; i < len(f.Versions) && f.Versions[i] == last+1; i++ {
			last++
		}
		if last == first {
			ranges = append(ranges, strconv.Itoa(first))
		} else {
			ranges = append(ranges, strconv.Itoa(first)+" to "+strconv.Itoa(last))
		}
	}
	return "its versions are " + strings.Join(ranges, ", ")
}
