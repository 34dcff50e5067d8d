// Package hostnet holds what the sandboxes share about the host's network: which
// addresses egress may not reach, and the packet filter's commands.
package hostnet

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// NotEgress lists the ranges that a function with egress may not reach: private,
// shared, link-local (cloud metadata), loopback, benchmark and multicast; RFC 6890.
// The slice is the caller's.
func NotEgress() []string {
	return []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
	}
}

// Resolvers lists the files that name the host's name servers, in the order to ask:
// a host with a resolver on its loopback has its servers in the second.
func Resolvers() []string {
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// Command runs one of the packet filter's programs with what it reads. Its error
// carries what the program said.
func Command(ctx context.Context, stdin, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s; networks of functions need iptables and root",
			program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
