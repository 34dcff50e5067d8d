package scheduler

import (
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// What a node says of its labels, architecture and protocol decides what comes there.
func TestPlacesByLabelsAndProtocol(t *testing.T) {
	table, now := newTestTable(), epochStart
	for id, change := range map[wire.NodeID]func(*wire.NodeState){
		"ssd": func(st *wire.NodeState) { st.Labels = map[string]string{"disk": "ssd", wire.LabelArch: "amd64"} },
		"arm": func(st *wire.NodeState) { st.Labels = map[string]string{"disk": "hdd", wire.LabelArch: "arm64"} },
		"new": func(st *wire.NodeState) {
			st.Protocol = wire.Protocol + 2
			st.Labels = map[string]string{"disk": "nvme", wire.LabelArch: "amd64"}
		},
	} {
		st := stateOf(id, "run", 1)
		change(&st)
		mustReport(t, table, st, now)
	}
	for _, test := range []struct {
		selector map[string]string
		arch     string
		want     wire.NodeID
		fails    string
	}{
		{selector: map[string]string{"disk": "ssd"}, want: "ssd"},
		{selector: map[string]string{"node": "arm"}, want: "arm"},
		{arch: "arm64", want: "arm"},
		{arch: "amd64", want: "ssd"},
		{selector: map[string]string{"disk": "ssd"}, arch: "arm64", fails: "no node has all of arch=arm64, disk=ssd"},
		{selector: map[string]string{"disk": "nvme"}, fails: "1 of an incompatible release"},
	} {
		r := oneInstance()
		r.Selector, r.Arch = test.selector, test.arch
		node, err := table.place(r, "l", false, now)
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Message, test.fails) {
				t.Errorf("%v %s: on %q, %v", test.selector, test.arch, node, err)
			}
			continue
		}
		if err != nil || node != test.want {
			t.Errorf("%v %s: on %q, %v", test.selector, test.arch, node, err)
		}
		table.giveBack(node, "l")
	}
}
