// Package node tests an invoker as a whole, with real NATS, real S3 and real
// containers. Through many lives of instances it counts what is there before and
// after: a node that leaves something behind with each instance dies of it in a
// week. And it takes away the container engine under load.
//
// It needs root, an OCI runtime and a Docker Engine; see `make leaks`.
package node
