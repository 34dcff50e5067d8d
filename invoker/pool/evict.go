package pool

import (
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Evictable returns the warm instances to remove so that needs fit once they and
// those that are draining already are gone, those first that are worth least. It
// returns false when even all of them would not do.
func (p *Pool) Evictable(needs wire.Resources, now time.Time) ([]wire.InstanceID, bool) {
	free := p.capacity.Minus(p.reserved).Plus(p.leaving)
	if free.Fits(needs) {
		return nil, true
	}
	if !free.Plus(p.idle).Fits(needs) {
		return nil, false
	}
	var ids []wire.InstanceID
	may := p.mayGo()
	for id := range p.policy.Victims(now) {
		v := p.instances[id].version
		if !may(v) {
			continue
		}
		ids = append(ids, id)
		if free = free.Plus(v.shape.Needs); free.Fits(needs) {
			break
		}
	}
	return ids, true
}

// Expired returns the warm instances that are idle for longer than the idle limit,
// the one idle longest first.
func (p *Pool) Expired(now time.Time) []wire.InstanceID {
	var ids []wire.InstanceID
	may := p.mayGo()
	for _, id := range p.policy.Expired(now) {
		if may(p.instances[id].version) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Spare returns all warm instances that are not kept.
func (p *Pool) Spare() []wire.InstanceID {
	var ids []wire.InstanceID
	may := p.mayGo()
	for id, in := range p.instances {
		if in.state == Warm && may(in.version) {
			ids = append(ids, id)
		}
	}
	return ids
}

// mayGo gives a function that says whether one more warm instance of a version may
// go, and counts it as gone if so.
func (p *Pool) mayGo() func(*version) bool {
	gone := map[*version]int{}
	return func(v *version) bool {
		if gone[v] == v.spare() {
			return false
		}
		gone[v]++
		return true
	}
}

// Due returns the versions of which an instance should be started now, as a call is
// expected soon and none lives; see [keepalive.Policy.Due].
func (p *Pool) Due(now time.Time) []wire.VersionID { return p.policy.Due(now) }

// NextDue returns when to ask [Pool.Due] again, if nothing happens before; false when
// nothing is expected.
func (p *Pool) NextDue(now time.Time) (time.Time, bool) { return p.policy.NextDue(now) }

// Keep sets how many instances of a version are neither evicted nor expired.
func (p *Pool) Keep(v wire.VersionID, count int) {
	ver := p.of(v)
	ver.kept = count
	p.settle(ver)
}

// Missing returns how many instances of a version must be started so that as many
// live as are kept.
func (p *Pool) Missing(v wire.VersionID) int {
	ver := p.versions[v]
	if ver == nil {
		return 0
	}
	return max(ver.kept-ver.count[Binding]-ver.count[Warm]-ver.count[Busy], 0)
}

// Lives reports whether there is an instance of a version that is not on its way out.
func (p *Pool) Lives(v wire.VersionID) bool {
	ver := p.versions[v]
	return ver != nil && ver.count[Binding]+ver.count[Warm]+ver.count[Busy] > 0
}
