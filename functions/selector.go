package functions

import "github.com/dayfly-run/dayfly/wire"

// readNodeSelector reads the labels that a node must have.
func (r *manifestReader) readNodeSelector(v value) {
	entries, ok := v.entries()
	if !ok {
		return
	}
	if len(entries) > wire.MaxSelector {
		v.reject("%d labels are too many; at most %d are allowed", len(entries), wire.MaxSelector)
		return
	}
	selector := make(map[string]string, len(entries))
	for _, e := range entries {
		if !wire.ValidLabel(e.key) {
			e.add(e.line, "nodeSelector: %s is not a label's key; %s", shown(e.key), wire.LabelRule)
			continue
		}
		text, ok := e.text()
		if !ok {
			continue
		}
		if !wire.ValidLabel(text) {
			e.reject("%s is not a label's value; %s", shown(text), wire.LabelRule)
			continue
		}
		selector[e.key] = text
	}
	if len(selector) > 0 {
		r.manifest.Spec.NodeSelector = selector
	}
}
