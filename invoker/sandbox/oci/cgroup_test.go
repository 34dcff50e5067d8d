package oci

import (
	"fmt"
	"strings"
	"testing"
)

func mountLine(path, rest string) string {
	return "30 25 0:26 / " + path + " rw,relatime shared:9 - " + rest + "\n"
}

func TestParseHierarchies(t *testing.T) {
	t.Parallel()
	v2 := mountLine("/sys/fs/cgroup", "cgroup2 cgroup2 rw,nsdelegate")
	v1 := mountLine("/sys/fs/cgroup/memory", "cgroup cgroup rw,memory") +
		mountLine("/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct") +
		mountLine("/sys/fs/cgroup/systemd", "cgroup cgroup rw,xattr,name=systemd")
	noise := mountLine("/", "ext4 /dev/vda rw") + "malformed\n" + mountLine("/run/cilium/cgroupv2", "cgroup2 none rw")
	for _, test := range []struct{ name, mountinfo, used, hidden, oom string }{
		{"none", noise, "[]", "[]", ""},
		{"v2", noise + v2, "[{/sys/fs/cgroup true []}]", "[]", "/sys/fs/cgroup/dayfly/o/i/memory.events"},
		{
			"v1", v1 + noise,
			"[{/sys/fs/cgroup/memory false [rw memory]} {/sys/fs/cgroup/cpu,cpuacct false [rw cpu cpuacct]} {/sys/fs/cgroup/systemd false [rw xattr name=systemd]}]",
			"[]", "/sys/fs/cgroup/memory/dayfly/o/i/memory.oom_control",
		},
		{
			"hybrid", mountLine("/sys/fs/cgroup/unified", "cgroup2 cgroup2 rw") + mountLine(`/sys/fs/cgroup/me\040mory`, "cgroup cgroup rw,memory"),
			"[{/sys/fs/cgroup/me mory false [rw memory]}]", "[/sys/fs/cgroup/unified]", "/sys/fs/cgroup/me mory/dayfly/o/i/memory.oom_control",
		},
		{
			"hybrid, mounted twice", strings.Repeat(mountLine("/sys/fs/cgroup/unified", "cgroup2 cgroup2 rw")+mountLine("/sys/fs/cgroup/memory", "cgroup cgroup rw,memory"), 2),
			"[{/sys/fs/cgroup/memory false [rw memory]}]", "[/sys/fs/cgroup/unified]", "/sys/fs/cgroup/memory/dayfly/o/i/memory.oom_control",
		},
	} {
		used, hidden := parseHierarchies([]byte(test.mountinfo))
		if got := fmt.Sprint(used); got != test.used {
			t.Errorf("%s: used %s", test.name, got)
		}
		if got := fmt.Sprint(hidden); got != test.hidden {
			t.Errorf("%s: hidden %s", test.name, got)
		}
		if got := used.oomFile("/dayfly/o/i"); got != test.oom {
			t.Errorf("%s: OOM file %s", test.name, got)
		}
	}
}
