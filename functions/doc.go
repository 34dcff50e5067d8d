// Package functions says what a function is: its spec, its versions and
// aliases, and the manifest (dayfly.yaml) that a user writes.
//
// A function is a name in a namespace. Each deploy makes one more immutable
// version; aliases are names that point to a version and may be moved.
package functions
