package invoker

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// TestKnownVersions: a call of a version that ran on the node before needs no registry; what
// is started without a call asks whether the version is still there.
func TestKnownVersions(t *testing.T) {
	n := startNode(t, each(echo))
	v, other := n.deploy(), n.deploy()
	a, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease(), Epoch: 1}, []byte(`1`))
	must(t, err)
	n.wantBody(a, `1`)
	for _, id := range []wire.VersionID{v, other} {
		_, err = n.registry.Delete(t.Context(), id.FunctionID, time.Now())
		must(t, err)
	}
	known := &n.inv.versions
	got, err := known.forCall(t.Context(), v)
	must(t, err)
	if got.VersionID != v {
		t.Errorf("%s is %s", v, got.VersionID)
	}
	if _, err := known.forCall(t.Context(), other); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("a version that the node does not know: %v", err)
	}
	for _, find := range []func() (functions.Version, error){
		func() (functions.Version, error) { return known.ask(t.Context(), v) },
		func() (functions.Version, error) { return known.forCall(t.Context(), v) },
	} {
		if _, err := find(); !wire.HasCode(err, wire.CodeNotFound) {
			t.Errorf("after it was asked for: %v", err)
		}
	}
}

// TestVersionsAreBounded: what a node remembers does not grow for ever.
func TestVersionsAreBounded(t *testing.T) {
	n := startNode(t, each(echo))
	known := &n.inv.versions
	for i := range maxVersions {
		known.known[wire.VersionID{Number: i}] = functions.Version{}
	}
	v := n.deploy()
	_, err := known.forCall(t.Context(), v)
	must(t, err)
	if _, ok := known.known[v]; !ok || len(known.known) != maxVersions {
		t.Errorf("%d versions are known, the last one among them: %t", len(known.known), ok)
	}
}
