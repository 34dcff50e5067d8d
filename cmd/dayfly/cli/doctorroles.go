package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
)

// maxNamed bounds the processes that a finding names.
const maxNamed = 3

// examineRoles checks whether the processes of a cluster fit together. Speaks is the
// protocol of the server.
func examineRoles(roles []client.Role, speaks int) []finding {
	findings := []finding{oneBuild(roles), oneLeader(roles)}
	for _, r := range roles {
		if distance := r.Protocol - speaks; distance > 1 || distance < -1 {
			findings = append(findings, finding{
				Name: "protocol", Verdict: verdictFail,
				Text: fmt.Sprintf("%s runs %s with protocol %d, the server speaks %d: they do not understand each other", processName(r), r.Build, r.Protocol, speaks),
				Mend: "upgrade the older one, one release after the other",
			})
		}
		drift := time.Duration(r.DriftMillis) * time.Millisecond
		if f := skewed("clock", "the clock of "+processName(r), "the server's", drift, maxSkew); f.Verdict != verdictOK {
			findings = append(findings, f)
		}
	}
	return findings
}

// oneBuild checks whether all processes are of one build. More are fine for the time of
// an upgrade.
func oneBuild(roles []client.Role) finding {
	builds := map[string][]string{}
	for _, r := range roles {
		builds[r.Build] = append(builds[r.Build], processName(r))
	}
	f := finding{Name: "processes", Verdict: verdictOK, Text: fmt.Sprintf("%d of them, all of one build", len(roles))}
	if len(builds) < 2 {
		return f
	}
	parts := make([]string, 0, len(builds))
	for _, build := range slices.Sorted(maps.Keys(builds)) {
		names := builds[build]
		text := strings.Join(names[:min(len(names), maxNamed)], ", ")
		if more := len(names) - maxNamed; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, build+" ("+text+")")
	}
	f.Verdict, f.Text = verdictWarn, "they run "+strings.Join(parts, " and ")
	f.Mend = "finish the upgrade: two releases next to each other work together, but not for ever"
	return f
}

// oneLeader checks whether one of the schedulers leads.
func oneLeader(roles []client.Role) finding {
	var leaders []string
	for _, r := range roles {
		if r.Leads {
			leaders = append(leaders, processName(r))
		}
	}
	switch len(leaders) {
	case 0:
		return finding{
			Name: "leader", Verdict: verdictFail, Text: "no scheduler leads: functions are not started, though those that run are called",
			Mend: "start one with `dayfly scheduler`; one that runs takes the lead within seconds, unless it does not reach NATS",
		}
	case 1:
		return finding{Name: "leader", Verdict: verdictOK, Text: leaders[0]}
	}
	return finding{
		Name: "leader", Verdict: verdictWarn, Text: strings.Join(leaders, " and ") + " say that they lead; nodes follow the newer one only",
		Mend: "ask again: one of them finds out within seconds",
	}
}

func processName(r client.Role) string {
	if r.Node != "" {
		return fmt.Sprintf("%s %s on %s", r.Role, r.Node, r.Host)
	}
	return fmt.Sprintf("%s on %s", r.Role, r.Host)
}
