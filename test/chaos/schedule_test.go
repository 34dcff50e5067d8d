package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/test/cluster"
)

// kind is what happens to a process or to its machine.
type kind string

const (
	kills  kind = "kill -9"
	pauses kind = "pause"
	cuts   kind = "cut off"
	slows  kind = "slow line"
	fills  kind = "full disk"
	shifts kind = "clock jump"
)

// fault is one thing that happens, and ends.
type fault struct {
	at, lasts time.Duration
	kind      kind
	target    string
	way       cluster.Way   // of a cut
	peers     []string      // whom the target is cut off from
	kilobits  int           // of a slow line, a second
	shift     time.Duration // of a clock
}

func (f fault) ends() time.Duration { return f.at + f.lasts }

func (f fault) String() string {
	var what string
	switch f.kind {
	case cuts:
		what = fmt.Sprintf(" from %s, %s", strings.Join(f.peers, " "), f.way)
	case slows:
		what = fmt.Sprintf(", %d kbit/s", f.kilobits)
	case shifts:
		what = fmt.Sprintf(" by %s", f.shift)
	case kills, pauses, fills:
	}
	return fmt.Sprintf("%6s for %6s  %-3s %s%s", f.at.Round(time.Millisecond), f.lasts.Round(time.Millisecond), f.target, f.kind, what)
}

// member is a process that faults may hit.
type member struct {
	name, role string
	disk       bool
}

const (
	natsRole = "nats"
	// settle is how long after the end of a NATS server's fault the next one of another
	// may begin: of three servers one may be missing, and one that comes back has to catch
	// up first.
	settle = 4 * time.Second
)

// jumps are by what clocks are off.
var jumps = [...]time.Duration{-time.Hour, -10 * time.Second, 10 * time.Second, time.Hour}

// schedule makes the faults of a seed. It is pure. At most two things happen at once, one
// process has one fault at a time, and only one NATS server at a time is disturbed: two of
// three that are gone are an outage, which no system of three survives.
func schedule(seed uint64, members []member, length time.Duration) []fault {
	random := rand.New(rand.NewPCG(seed, 0))
	var faults []fault
	for range 2 { // tracks
		for at := between(random, 0, time.Second); at < length; {
			f := fault{at: at}
			m := pick(random, members)
			f.target, f.kind = m.name, kindFor(random, m)
			fill(&f, random, m, members)
			if !allowed(f, m, faults, members) {
				at += 200 * time.Millisecond // other dice, a little later
				continue
			}
			faults = append(faults, f)
			at = f.ends() + between(random, 200*time.Millisecond, 1500*time.Millisecond)
		}
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return faults
}

// pick chooses a role first, so that each is hit equally often.
func pick(random *rand.Rand, members []member) member {
	var roles []string
	for _, m := range members {
		if !slices.Contains(roles, m.role) {
			roles = append(roles, m.role)
		}
	}
	role := roles[random.IntN(len(roles))]
	of := slices.DeleteFunc(slices.Clone(members), func(m member) bool { return m.role != role })
	return of[random.IntN(len(of))]
}

func kindFor(random *rand.Rand, m member) kind {
	weighted := []kind{kills, kills, kills, pauses, pauses, cuts, cuts, cuts, slows}
	if cluster.ClocksJump {
		weighted = append(weighted, shifts)
	}
	if m.disk {
		weighted = append(weighted, fills)
	}
	return weighted[random.IntN(len(weighted))]
}

// fill rolls the rest of a fault.
func fill(f *fault, random *rand.Rand, m member, members []member) {
	f.lasts = between(random, time.Second, 4*time.Second)
	switch f.kind {
	case kills:
		f.lasts = between(random, 100*time.Millisecond, 2*time.Second)
	case pauses:
		f.lasts = between(random, time.Second, 6*time.Second)
	case cuts:
		f.way = cluster.Way(random.IntN(3))
		for _, other := range members {
			if other.name != m.name {
				f.peers = append(f.peers, other.name)
			}
		}
		if random.IntN(2) == 0 { // some only
			random.Shuffle(len(f.peers), func(i, j int) { f.peers[i], f.peers[j] = f.peers[j], f.peers[i] })
			f.peers = f.peers[:1+random.IntN(len(f.peers)/2)]
			slices.Sort(f.peers)
		}
	case slows:
		f.kilobits = 128 << random.IntN(4)
	case shifts:
		f.shift = jumps[random.IntN(len(jumps))]
	case fills:
	}
}

// allowed keeps the rules of [schedule].
func allowed(f fault, m member, faults []fault, members []member) bool {
	servers := func(g fault) bool {
		return slices.ContainsFunc(members, func(m member) bool { return m.name == g.target && m.role == natsRole })
	}
	for _, g := range faults {
		if overlap(f, g, time.Second) && f.target == g.target {
			return false
		}
		if m.role == natsRole && servers(g) && f.target != g.target && overlap(f, g, settle) {
			return false
		}
	}
	return true
}

// overlap reports whether there is less than a gap between two faults.
func overlap(f, g fault, gap time.Duration) bool { return f.at < g.ends()+gap && g.at < f.ends()+gap }

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}
