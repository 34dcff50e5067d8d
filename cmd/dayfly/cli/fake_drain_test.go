package cli_test

import (
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// drain plays nodes that drain: n1 further with each look, node-two not without room
// elsewhere, old when it comes back.
func (f *fakeAPI) drain(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := wire.KeptOnNode{Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "thumbnail"}, Number: 3}, Count: 1}
	d := wire.DrainState{Node: wire.NodeID(r.PathValue("node")), Ordered: true, Since: f.ago(time.Minute)}
	switch {
	case d.Node != "n1" && d.Node != "node-two" && d.Node != "old" && d.Node != "quiet":
		return wire.Errorf(wire.CodeNotFound, "there is no node %q; do you mean n1?", d.Node)
	case r.Method == http.MethodDelete:
		d.Ordered, d.Since = false, time.Time{}
	case d.Node == "quiet" && r.Method == http.MethodGet: // somebody else was quick
		d.Ordered = false
	case d.Node == "old":
		d.Gone = true
	case d.Node == "node-two":
		d.Draining, d.Instances, d.Kept = true, 1, []wire.KeptOnNode{kept}
	case r.Method == http.MethodPut:
		f.looked = 0
	default:
		f.looked++
		d.Draining, d.Instances, d.Busy, d.Stems = true, 3, 2, 1
		kept.Elsewhere = 1
		d.Kept = []wire.KeptOnNode{kept}
		if f.looked > 1 {
			d.Instances, d.Busy, d.Stems, d.Kept, d.Drained = 0, 0, 0, nil, true
		}
	}
	return answer(w, http.StatusOK, d)
}
