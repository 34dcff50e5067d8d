package invoker

import (
	"maps"
	"runtime"

	"github.com/dayfly-run/dayfly/wire"
)

// labelsOf are the labels of a node: those that it was given, and those that every node
// has by itself.
func labelsOf(cfg Config, sandbox string) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, cfg.Labels)
	labels[wire.LabelNode] = string(cfg.Node)
	labels[wire.LabelArch] = runtime.GOARCH
	labels[wire.LabelSandbox] = sandbox
	return labels
}
