// Package leaks runs an invoker through many lives of instances, with real NATS,
// real S3 and real containers, and counts what is there before and after: a node
// that leaves something behind with each instance dies of it in a week.
//
// It needs root, an OCI runtime and a Docker Engine; see `make leaks`.
package leaks
