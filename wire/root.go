package wire

import "time"

// Root is a root file system of a runtime, as it is stored.
type Root struct {
	Name string `json:"name"`
	Arch string `json:"arch"`
	// Recipe is the digest of what it was made by, Digest that of the object.
	Recipe Digest `json:"recipe"`
	Digest Digest `json:"digest"`
	// Bytes is the size of the object, packed.
	Bytes   int64     `json:"bytes"`
	BuiltAt time.Time `json:"builtAt,omitzero"`
	// Revision counts how often it was made, from 1 on.
	Revision int `json:"revision"`
	// Source says what it was made of: one of the Source constants.
	Source RootSource `json:"source"`
	// Replaced are objects that this one took the place of, the latest last. They
	// stay for a while, for nodes that are about to fetch them.
	Replaced []ReplacedRoot `json:"replaced,omitempty"`
}

// ID names the root on nodes: its recipe at first, so that a machine which has one of
// another cluster need not fetch it, and its content once it was made anew.
func (r Root) ID() Digest {
	if r.Revision <= 1 {
		return r.Recipe
	}
	return r.Digest
}

// RootSource says what a root was made of.
type RootSource string

// What roots are made of.
const (
	SourcePackages RootSource = "packages"
	SourceImage    RootSource = "image"
)

// ReplacedRoot is an object that no new container uses.
type ReplacedRoot struct {
	Digest Digest    `json:"digest"`
	At     time.Time `json:"at"`
}

// RuntimeRoot is a root as the management API lists it. One that the cluster has not
// made yet has no Digest; the first node that needs it makes it.
type RuntimeRoot struct {
	Root
	// Runtimes are those that use it in the gateway's release; none for a root of
	// another release.
	Runtimes []string `json:"runtimes"`
}

// Image is a user's container image as nodes run it: one root file system, and how
// its process is started.
type Image struct {
	// Digest names the root file system; see [ImageKey].
	Digest Digest `json:"digest"`
	// Bytes is the size of the object, packed, RootBytes that of its files.
	Bytes     int64  `json:"bytes"`
	RootBytes int64  `json:"rootBytes"`
	Arch      string `json:"arch"`
	// Source says where it came from: a file of the bundle, or a reference.
	Source  string   `json:"source"`
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"`
	WorkDir string   `json:"workDir"`
}

// RebuildRequest asks a builder to make a root anew and to put it in the place of the
// one that is there.
type RebuildRequest struct {
	ID string `json:"id"`
	// Root is the root's name.
	Root string `json:"root"`
	// Archive is the key of an uploaded image archive to make it of; empty for
	// packages.
	Archive string `json:"archive,omitempty"`
}

// RebuildReply answers a [RebuildRequest].
type RebuildReply struct {
	Error *Error `json:"error,omitempty"`
	Root  *Root  `json:"root,omitempty"`
	// Log is what the build printed.
	Log string `json:"log,omitempty"`
}

// RebuildSubject is where builders share [RebuildRequest] in the group [BuildGroup].
const RebuildSubject = "dayfly.builder.rebuild"

// BucketRoots is the key-value bucket that lists the roots.
const BucketRoots = "dayfly_roots"

// BucketRootClaims is the key-value bucket of roots that are being made.
const BucketRootClaims = "dayfly_root_claims"

// RootKey is a root's key in [BucketRoots] and [BucketRootClaims].
func RootKey(name, arch string, recipe Digest) string {
	return name + "." + arch + "." + string(recipe)
}

// RuntimeKey holds a root: a zstd-compressed tar, named by its own digest.
func RuntimeKey(d Digest) string { return "runtimes/" + string(d) }

// ImageKey holds the root of a user's image, as [RuntimeKey] does a runtime's.
func ImageKey(d Digest) string { return "images/" + string(d) }
