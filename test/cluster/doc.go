// Package cluster runs a whole Dayfly on one machine, as on machines of their own: three
// NATS servers, an S3 server, gateways, schedulers, events workers and invokers, each a
// process of the released program in a network namespace of its own. What happens to
// machines can happen to each of them: it is killed, paused, cut off from some or all of
// the others, one way or both, gets a slow line, a full disk or a wrong clock.
//
// Nothing is left when it is closed. When the process that runs it dies, namespaces and
// disks go with it, which are held by file descriptors and mounted where only its processes
// see them; the next start removes its folder and the control groups of its functions.
// It needs root, iptables, tc and an OCI runtime.
package cluster
