package invoker

import (
	"context"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxVersions bounds the versions that a node remembers, a few KB each.
	maxVersions = 1000
	// versionBound bounds a question to the registry for a call. While JetStream elects a
	// leader nobody answers, and the call holds one of the instances that its function may
	// have.
	versionBound = 2 * time.Second
)

// versions knows what versions are. Safe for concurrent use.
type versions struct {
	registry *registry.Registry

	mu    sync.Mutex
	known map[wire.VersionID]functions.Version // guarded by mu; a number never means two things
}

// ask asks the registry, and so is not_found for one that was deleted.
func (vs *versions) ask(ctx context.Context, id wire.VersionID) (functions.Version, error) {
	v, err := vs.registry.Version(ctx, id)
	vs.mu.Lock()
	defer vs.mu.Unlock()
	switch {
	case wire.HasCode(err, wire.CodeNotFound):
		delete(vs.known, id)
	case err == nil:
		if len(vs.known) >= maxVersions {
			for any := range vs.known {
				delete(vs.known, any)
				break
			}
		}
		vs.known[id] = v
	}
	return v, err
}

// forCall asks only for a version that the node does not know: who sends the call has seen
// that it is there.
func (vs *versions) forCall(ctx context.Context, id wire.VersionID) (functions.Version, error) {
	vs.mu.Lock()
	v, ok := vs.known[id]
	vs.mu.Unlock()
	if ok {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionBound)
	defer cancel()
	return vs.ask(ctx, id)
}
