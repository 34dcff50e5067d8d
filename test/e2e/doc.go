// Package e2e tests Dayfly from outside, as its users and operators meet it: the
// built binary, its HTTP and its command line, with real containers. Every test of
// the shared suite runs against two set-ups: `dayfly up`, and the four roles as
// processes of their own with NATS and S3 outside of them.
//
// It needs root and a Docker Engine; see `make test`.
package e2e
