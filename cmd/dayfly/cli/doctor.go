package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// Verdicts of a check.
const (
	verdictOK   = "ok"
	verdictWarn = "warn"
	verdictFail = "fail"
)

// finding is what one check saw.
type finding struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	// Text is what was seen, Mend what to do about it.
	Text string `json:"text"`
	Mend string `json:"mend,omitempty"`
}

const (
	// maxSkew is how far two clocks may be apart before times in logs and schedules
	// mislead.
	maxSkew = time.Second
	// maxSilence is how long a node may be unheard of.
	maxSilence = 2 * wire.NodeLostAfter
)

func doctorCommand(version string) *cobra.Command {
	var flags common
	var local, remote bool
	data := "."
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the server and this machine, and say how to mend what is wrong",
		Long: `Doctor checks that the server answers, that NATS, S3, a scheduler, nodes and a
builder are there, that versions, protocols and clocks of all processes agree, and, if the server is on this
machine or with --local, that this machine can run Dayfly: what makes containers,
control groups, the kernel, limits, memory and disk.

A line begins with ✓ for good, ! for what may trouble you and ✗ for what must be
mended. The exit code is 1 if there is any ✗.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if local && remote {
				return usagef(cmd, "--local and --server leave nothing to check; use one of them")
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			var findings []finding
			if !local {
				findings = s.examineServer(version, time.Now)
			}
			if local || !remote && onThisMachine(s.client.URL()) {
				findings = append(findings, examineMachine(s.ctx, thisMachine(data))...)
			}
			return s.printFindings(findings)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&local, "local", false, "only this machine")
	cmd.Flags().BoolVar(&remote, "server", false, "only the server")
	cmd.Flags().StringVar(&data, "data", data, "the `folder` that is or will be --data of dayfly up")
	return cmd
}

// onThisMachine reports whether a URL leads to this machine's loopback.
func onThisMachine(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// examineServer checks what can be seen from here.
func (s *session) examineServer(version string, clock func() time.Time) []finding {
	begun := clock()
	h, err := s.client.Health(s.ctx)
	took := clock().Sub(begun)
	if err != nil {
		return []finding{unreachable(s.client.URL(), err)}
	}
	findings := []finding{{Name: "server", Verdict: verdictOK, Text: fmt.Sprintf("%s answers in %s", s.client.URL(), humanDuration(took))}}
	findings = append(findings, sameVersion("version", "the server", h.Build, version))
	for _, check := range h.Checks {
		f := finding{Name: check.Name, Verdict: verdictOK, Text: "there"}
		if check.Problem != "" {
			f.Verdict, f.Text = verdictFail, check.Problem
		}
		findings = append(findings, f)
	}
	// It was said somewhere between question and answer.
	findings = append(findings, skewed("clock", "this machine's clock", "the server's", begun.Add(took/2).Sub(h.Now), maxSkew+took/2))
	nodes, err := s.client.Nodes(s.ctx)
	if err != nil {
		return append(findings, finding{Name: "nodes", Verdict: verdictFail, Text: err.Error()})
	}
	for _, n := range nodes {
		findings = append(findings, examineNode(n, h)...)
	}
	roles, protocol, err := s.client.Roles(s.ctx)
	if err != nil {
		return append(findings, finding{Name: "processes", Verdict: verdictFail, Text: err.Error()})
	}
	return append(findings, examineRoles(roles, protocol)...)
}

func unreachable(address string, err error) finding {
	f := finding{Name: "server", Verdict: verdictFail, Text: err.Error()}
	if e, ok := errors.AsType[*client.UnreachableError](err); ok {
		f.Text = fmt.Sprintf("no server answers at %s (%s)", address, e.Err)
		f.Mend = "start one with `dayfly up`, or set --url or " + urlVariable + " to where it runs"
	}
	return f
}

func sameVersion(name, whose, theirs, ours string) finding {
	if theirs == ours {
		return finding{Name: name, Verdict: verdictOK, Text: whose + " runs " + theirs + ", as this program"}
	}
	return finding{
		Name: name, Verdict: verdictWarn, Text: fmt.Sprintf("%s runs %s, this program is %s", whose, theirs, ours),
		Mend: "upgrade the older one",
	}
}

func skewed(name, one, other string, skew, most time.Duration) finding {
	f := finding{Name: name, Verdict: verdictOK, Text: fmt.Sprintf("%s and %s agree", one, other)}
	if skew.Abs() > most {
		ahead := "ahead of"
		if skew < 0 {
			ahead = "behind"
		}
		f.Verdict, f.Text = verdictWarn, fmt.Sprintf("%s is %s %s %s", one, humanDuration(skew.Abs()), ahead, other)
		f.Mend = "let chrony, ntpd or systemd-timesyncd set both: timedatectl set-ntp true"
	}
	return f
}

func examineNode(n client.Node, h client.Health) []finding {
	name := "node " + string(n.Node)
	if n.Gone {
		return []finding{{
			Name: name, Verdict: verdictWarn, Text: "is not heard of, and is to drain when it comes back",
			Mend: "if it was taken away for good: dayfly drain " + string(n.Node) + " --cancel",
		}}
	}
	if silence := h.Now.Sub(n.LastSeen); silence > maxSilence || n.Stopping {
		return []finding{{
			Name: name, Verdict: verdictFail, Text: "was last heard of " + humanAge(n.LastSeen, h.Now),
			Mend: "look whether its invoker runs, and whether it reaches NATS",
		}}
	}
	f := finding{Name: name, Verdict: verdictOK, Text: fmt.Sprintf("ready with %s, %s of %s memory reserved",
		n.Sandbox, humanBytes(n.Reserved.MemoryBytes), humanBytes(n.Capacity.MemoryBytes))}
	switch {
	case n.Incompatible:
		f.Verdict, f.Text = verdictFail, fmt.Sprintf("runs %s with protocol %d, which the server does not speak: it gets nothing to do", n.Build, n.Protocol)
		f.Mend = "upgrade the older one, one release after the other"
	case n.Draining:
		f.Verdict, f.Text = verdictWarn, "takes nothing new: it drains, or is being stopped"
	}
	findings := []finding{f}
	if n.Build != h.Build {
		findings = append(findings, finding{
			Name: name, Verdict: verdictWarn, Text: fmt.Sprintf("runs %s, the gateway %s", n.Build, h.Build), Mend: "upgrade the older one",
		})
	}
	if !n.At.IsZero() {
		if skew := skewed(name, "its clock", "the server's", n.At.Sub(n.LastSeen), maxSkew); skew.Verdict != verdictOK {
			findings = append(findings, skew)
		}
	}
	return findings
}

// printFindings writes a line for each, and fails if any must be mended.
func (s *session) printFindings(findings []finding) error {
	failed := 0
	for _, f := range findings {
		if f.Verdict == verdictFail {
			failed++
		}
	}
	if err := s.writeFindings(findings); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %s failed", failed, counted(len(findings), "check"))
	}
	return nil
}

func (s *session) writeFindings(findings []finding) error {
	if s.json {
		return s.printJSON(map[string]any{"checks": findings})
	}
	signs := map[string]string{verdictOK: paint(s.out, green, "✓"), verdictWarn: paint(s.out, yellow, "!"), verdictFail: paint(s.out, red, "✗")}
	for _, f := range findings {
		if _, err := fmt.Fprintf(s.out, "%s %s: %s\n", signs[f.Verdict], paint(s.out, bold, f.Name), f.Text); err != nil {
			return err
		}
		if f.Mend != "" {
			fmt.Fprintf(s.out, "    → %s\n", f.Mend)
		}
	}
	return nil
}

// machineBound limits each program that is asked for its version.
const machineBound = 5 * time.Second

// examineMachine checks whether a machine can run Dayfly.
func examineMachine(ctx context.Context, m machine) []finding {
	ctx, cancel := context.WithTimeout(ctx, 2*machineBound)
	defer cancel()
	return []finding{
		m.system(), m.containers(ctx), m.controlGroups(), m.openFiles(), m.memory(), m.disk(), m.clock(),
		m.program("go", "functions of the runtime go are compiled with it", "install Go 1.26 or later where the builder runs: https://go.dev/dl"),
		m.program("git", "deploys from a git URL use it", "install git"),
	}
}
