// Package events tests what becomes of accepted events while the platform falls apart:
// every role and NATS are processes of their own, and each is killed with SIGKILL again
// and again. Functions are played by the test, in nodes that have the fake sandbox, so
// that a run takes seconds, needs no containers, and counts every time that a function ran.
//
// See `make faults` for the long form.
package events
