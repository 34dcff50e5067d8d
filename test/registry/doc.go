// Package registry tests that the registry keeps its word over a cluster of three NATS
// servers that are stopped and started while clients deploy, move aliases and roll back:
// what they saw is as if all of it had happened one after the other, and nothing that an
// alias names is missing.
package registry
