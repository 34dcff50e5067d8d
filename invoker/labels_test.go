package invoker

import (
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLabelsOfNode(t *testing.T) {
	given := map[string]string{"disk": "ssd", "zone": "a"}
	want := map[string]string{"disk": "ssd", "zone": "a", "node": "n1", "arch": runtime.GOARCH, "sandbox": "oci"}
	if diff := cmp.Diff(want, labelsOf(Config{Node: "n1", Labels: given}, "oci")); diff != "" {
		t.Error(diff)
	}
	if len(given) != 2 {
		t.Errorf("the given labels were changed: %v", given)
	}
}
