package functions

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestPlaceRequest(t *testing.T) {
	id := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "team-a", Name: "resize"}, Number: 3}
	v := Version{
		VersionID: id, Artifact: Artifact{Code: "c0", Arch: "arm64"},
		Spec: Spec{Runtime: "go", MemoryBytes: 64 << 20, CPUMillis: 250, MaxInstances: 7, NodeSelector: map[string]string{"disk": "ssd"}},
	}
	want := wire.PlaceRequest{
		Invocation: "i1", Version: id, Runtime: "go", Code: "c0", Stem: "base/egress",
		Needs: wire.Resources{MemoryBytes: 64 << 20, CPUMillis: 250, Instances: 1}, MaxInstances: 7,
		Selector: map[string]string{"disk": "ssd"}, Arch: "arm64", Protocol: wire.Protocol,
	}
	if diff := cmp.Diff(want, v.PlaceRequest("i1", "base/egress")); diff != "" {
		t.Error(diff)
	}
}
