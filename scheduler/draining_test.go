package scheduler_test

import (
	"testing"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestDrainingNodeIsReplacedFirst: what a draining node keeps is kept elsewhere, and taken
// back once it runs there.
func TestDrainingNodeIsReplacedFirst(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	known, cache := functionsOf(t, connect(t, server))
	deploy(t, known, 2)
	a := startKeepingNode(t, conn, "a")
	s := startKeeping(t, server, cache)
	embedtest.Eventually(t, "both are kept on the only node", func() bool { return a.kept(version(1)) == 2 })

	a.report(t, func(st *wire.NodeState) { st.Draining = true })
	embedtest.Eventually(t, "none of them counts", func() bool { return s.metric(t, "dayfly_scheduler_keep_missing") == 2 })
	before := a.commands()
	b := startKeepingNode(t, conn, "b")
	b.set(func(n *keepingNode) { n.slow = true })
	embedtest.Eventually(t, "both are kept elsewhere", func() bool {
		return b.kept(version(1)) == 2 && s.metric(t, "dayfly_scheduler_keep_missing") == 0
	})
	if a.kept(version(1)) != 2 || a.commands() != before {
		t.Errorf("%d stay where they are, after %d commands, before others run", a.kept(version(1)), a.commands()-before)
	}
	b.becomesReady(t)
	embedtest.Eventually(t, "they are taken back", func() bool { return a.kept(version(1)) == 0 })

	// It works again: nothing moves back.
	a.report(t, func(st *wire.NodeState) { st.Draining = false })
	deploy(t, known, 4)
	embedtest.Eventually(t, "the next version is on both", func() bool {
		return a.kept(version(2)) > 0 && a.kept(version(2))+b.kept(version(2)) == 4
	})
}
