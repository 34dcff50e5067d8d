package hostproc

import (
	"maps"
	"testing"
)

// TestCgroupPaths: what is not the container's own is left out, above all the root, where
// a limit would be the machine's.
func TestCgroupPaths(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		membership string
		want       map[string]string
	}{
		"v2":                {"0::/docker/abc\n", map[string]string{"": "/sys/fs/cgroup/docker/abc"}},
		"v1":                {"5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n", map[string]string{"cpu": "/sys/fs/cgroup/cpu/docker/abc", "cpuacct": "/sys/fs/cgroup/cpuacct/docker/abc", "memory": "/sys/fs/cgroup/memory/docker/abc"}},
		"hybrid":            {"4:memory:/docker/abc\n0::/docker/abc\n", map[string]string{"memory": "/sys/fs/cgroup/memory/docker/abc"}},
		"ends meanwhile":    {"8:pids:/docker/abc\n4:memory:/\n1:cpu:/\n0::/docker/abc\n", map[string]string{"pids": "/sys/fs/cgroup/pids/docker/abc"}},
		"ends":              {"8:pids:/\n4:memory:/\n0::/docker/abc\n", map[string]string{}},
		"no such line":      {"abc\n", map[string]string{}},
		"somebody else's":   {"4:memory:/docker/abd\n", map[string]string{}},
		"only in one of it": {"4:memory:/docker/abc\n1:cpu:/elsewhere\n", map[string]string{"memory": "/sys/fs/cgroup/memory/docker/abc"}},
	} {
		if got := cgroupPaths(test.membership, "abc"); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
