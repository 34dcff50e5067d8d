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
	BuiltAt time.Time `json:"builtAt"`
}

// BucketRoots is the key-value bucket that lists the roots.
const BucketRoots = "dayfly_roots"

// RootKey is a root's key in [BucketRoots].
func RootKey(name, arch string, recipe Digest) string {
	return name + "." + arch + "." + string(recipe)
}

// RuntimeKey holds a root: a zstd-compressed tar, named by its own digest.
func RuntimeKey(d Digest) string { return "runtimes/" + string(d) }
