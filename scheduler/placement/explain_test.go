package placement_test

import (
	"fmt"
	"testing"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/google/go-cmp/cmp"
)

func capacity(r wire.Resources) func(*placement.Node) {
	return func(n *placement.Node) { n.Capacity = r }
}

func TestRefusals(t *testing.T) {
	const later = "; try again later or add a node"
	noCapacity := func(message string) *wire.Error {
		return &wire.Error{Code: wire.CodeNoCapacity, Message: message, RetryAfterMillis: 1000, Retryable: true}
	}
	tooLarge := func(message string) *wire.Error {
		return &wire.Error{
			Code: wire.CodeNoCapacity, Message: "no connected node is large enough for resize:3: " +
				message + "; lower what it asks for or add a larger node",
			RetryAfterMillis: 30_000, Retryable: true,
		}
	}
	noLabel := func(message string) *wire.Error {
		return &wire.Error{
			Code: wire.CodeNoCapacity, Message: "no connected node can take resize:3: " + message,
			RetryAfterMillis: 30_000, Retryable: true,
		}
	}
	selecting := func(pairs ...string) func(*wire.PlaceRequest) {
		return func(r *wire.PlaceRequest) { r.Selector = with(placement.Node{}, labelled(pairs...)).Labels }
	}
	disks := []placement.Node{
		with(emptyNode("a"), labelled("disk", "ssd", "zone", "1", "arch", "amd64")),
		with(emptyNode("b"), labelled("disk", "hdd", "zone", "2", "arch", "amd64")),
	}
	tests := map[string]struct {
		nodes   []placement.Node
		request func(*wire.PlaceRequest)
		want    *wire.Error
	}{
		"a value that no node has": {
			nodes: disks, request: selecting("disk", "nvme"),
			want: noLabel("no node has disk=nvme, they have disk=hdd and disk=ssd; start an invoker with --label disk=nvme, or change nodeSelector"),
		},
		"a label that no node has": {
			nodes: disks, request: selecting("disc", "ssd"),
			want: noLabel("no node has a label disc; there are arch, disk, node and zone; start an invoker with --label disc=ssd, or change nodeSelector"),
		},
		"a zone that there is not": {
			nodes: disks, request: selecting("zone", "3"),
			want: noLabel("no node has zone=3, they have zone=1 and zone=2; start an invoker with --zone 3, or change nodeSelector"),
		},
		"labels that no node has all of": {
			nodes: disks, request: selecting("disk", "ssd", "zone", "2"),
			want: noLabel("no node has all of disk=ssd, zone=2; give one of them the labels that it lacks, or change nodeSelector"),
		},
		"a node that is not there": {
			nodes: disks, request: selecting("node", "c"),
			want: noLabel("nodeSelector asks for the node c, which is not connected; start it, or change nodeSelector"),
		},
		"a node without the other label": {
			nodes: disks, request: selecting("node", "a", "disk", "hdd"),
			want: noLabel("no node has all of disk=hdd, node=a; give one of them the labels that it lacks, or change nodeSelector"),
		},
		"another kind of machine": {
			nodes: disks, request: func(r *wire.PlaceRequest) { r.Arch = "arm64" },
			want: noLabel("its code was made for arm64, and nodes have arch=amd64; add a node of that kind, or build it on one of these"),
		},
		"asked for another kind of machine": {
			nodes: disks, request: selecting("arch", "arm64"),
			want: noLabel("no node has arch=arm64, they have arch=amd64; add such a node, or change nodeSelector"),
		},
		"those with the labels are full": {
			nodes:   append(disks, with(emptyNode("c"), labelled("disk", "nvme"), reserved(resources(gib, 0, 0))), with(emptyNode("d"), incompatible, labelled("disk", "nvme"))),
			request: selecting("disk", "nvme"),
			want: noCapacity("no node can take resize:3 now: 4 nodes: 2 lack the labels disk=nvme, 1 of an incompatible release, " +
				"1 lacks memory (largest free 0 bytes, needed 128 MiB)" + later),
		},
		"those with the labels are too small": {
			nodes:   append(disks, with(emptyNode("c"), labelled("disk", "nvme"), capacity(resources(64*mib, 4000, 10)))),
			request: selecting("disk", "nvme"),
			want:    tooLarge("it needs 128 MiB of memory and the largest node has 64 MiB"),
		},
		"no nodes": {
			want: noCapacity("no node can take resize:3: no invoker is connected; start one with `dayfly invoker`"),
		},
		"memory and a drain": {
			nodes: []placement.Node{
				with(emptyNode("a"), reserved(resources(960*mib, 0, 0))),
				with(emptyNode("b"), reserved(resources(1000*mib, 0, 0))),
				with(emptyNode("c"), draining),
			},
			request: func(r *wire.PlaceRequest) { r.Needs.MemoryBytes = 256 * mib },
			want:    noCapacity("no node can take resize:3 now: 3 nodes: 2 lack memory (largest free 64 MiB, needed 256 MiB), 1 draining" + later),
		},
		"one of each": {
			nodes: []placement.Node{
				with(emptyNode("a"), seen(2*wire.NodeLostAfter), draining, runtimes("go")),
				with(emptyNode("b"), draining, runtimes("go")),
				with(emptyNode("c"), runtimes("go")),
				with(emptyNode("d"), runtimes()),
				with(emptyNode("e"), reserved(resources(gib, 4000, 100))),
				with(emptyNode("f"), reserved(resources(0, 3750, 100))),
				with(emptyNode("g"), reserved(resources(0, 0, 100))),
			},
			request: func(r *wire.PlaceRequest) { r.Exclude = []wire.NodeID{"a", "b", "c"} },
			want: noCapacity("no node can take resize:3 now: 7 nodes: 1 silent for more than 2s, 1 draining, 1 just refused it, " +
				`1 lacks the runtime "python", 1 lacks memory (largest free 0 bytes, needed 128 MiB), ` +
				"1 lacks CPU (largest free 0.25 cores, needed 0.5 cores), 1 lacks room for instances (largest free 0, needed 1)" + later),
		},
		"more than one of each": {
			nodes: []placement.Node{
				with(emptyNode("a"), runtimes("go")),
				with(emptyNode("b"), runtimes("go")),
				with(emptyNode("c"), reserved(resources(0, 3001, 0))),
				with(emptyNode("d"), reserved(resources(0, 3500, 0))),
				with(emptyNode("e"), reserved(resources(0, 4000, 0))),
			},
			request: func(r *wire.PlaceRequest) { r.Needs.CPUMillis = 1000 },
			want: noCapacity("no node can take resize:3 now: 5 nodes: 3 lack CPU (largest free 0.999 cores, needed 1 core), " +
				`2 lack the runtime "python"` + later),
		},
		"all lost": {
			nodes: []placement.Node{with(emptyNode("a"), seen(2*wire.NodeLostAfter))},
			want:  noCapacity("no node can take resize:3 now: 1 node: 1 silent for more than 2s" + later),
		},
		"all lost and too large for them": {
			nodes:   []placement.Node{with(emptyNode("a"), seen(2*wire.NodeLostAfter))},
			request: func(r *wire.PlaceRequest) { r.Needs.MemoryBytes = 2 * gib },
			want:    noCapacity("no node can take resize:3 now: 1 node: 1 silent for more than 2s" + later),
		},
		"one byte short": {
			nodes:   []placement.Node{with(emptyNode("a"), reserved(resources(gib-128*mib+1, 0, 0)))},
			request: func(*wire.PlaceRequest) {},
			want:    noCapacity("no node can take resize:3 now: 1 node: 1 lacks memory (largest free 127.9 MiB, needed 128 MiB)" + later),
		},
		"one byte too much": {
			nodes:   []placement.Node{with(emptyNode("a"), reserved(resources(gib-128*mib, 0, 0)))},
			request: func(r *wire.PlaceRequest) { r.Needs.MemoryBytes++ },
			want:    noCapacity("no node can take resize:3 now: 1 node: 1 lacks memory (largest free 128 MiB, needed 128.1 MiB)" + later),
		},
		"overcommitted already": {
			nodes: []placement.Node{with(emptyNode("a"), reserved(resources(2*gib, 0, 0)))},
			want:  noCapacity("no node can take resize:3 now: 1 node: 1 lacks memory (largest free 0 bytes, needed 128 MiB)" + later),
		},
		"more memory than any node has": {
			nodes:   []placement.Node{emptyNode("a"), with(emptyNode("b"), capacity(resources(1536*mib, 8000, 10)), draining)},
			request: func(r *wire.PlaceRequest) { r.Needs.MemoryBytes = 8 * gib },
			want:    tooLarge("it needs 8 GiB of memory and the largest node has 1.5 GiB"),
		},
		"a lost node's size does not count": {
			nodes: []placement.Node{
				emptyNode("a"),
				with(emptyNode("b"), capacity(resources(16*gib, 8000, 10)), seen(2*wire.NodeLostAfter)),
			},
			request: func(r *wire.PlaceRequest) { r.Needs.MemoryBytes = 8 * gib },
			want:    tooLarge("it needs 8 GiB of memory and the largest node has 1 GiB"),
		},
		"more of everything": {
			nodes:   []placement.Node{emptyNode("a")},
			request: func(r *wire.PlaceRequest) { r.Needs = resources(2<<40, 4500, 101) },
			want: tooLarge("it needs 2 TiB of memory and the largest node has 1 GiB, it needs 4.5 cores of CPU and " +
				"the largest node has 4 cores, it needs room for 101 instances and the largest node has room for 100"),
		},
		"no node has both": {
			nodes: []placement.Node{
				with(emptyNode("a"), capacity(resources(8*gib, 1000, 10))),
				with(emptyNode("b"), capacity(resources(gib, 8000, 10))),
			},
			request: func(r *wire.PlaceRequest) { r.Needs = resources(4*gib, 4000, 1) },
			want:    tooLarge("no single node has 4 GiB of memory, 4 cores of CPU and room for 1 instance"),
		},
		"the version's limit": {
			nodes: []placement.Node{
				with(emptyNode("a"), runs(version(3), 2)),
				with(emptyNode("b"), runs(version(3), 1), draining),
			},
			request: func(r *wire.PlaceRequest) { r.MaxInstances = 3 },
			want: &wire.Error{
				Code:             wire.CodeThrottled,
				Message:          "resize:3 has 3 of at most 3 instances; try again later or raise maxInstances",
				RetryAfterMillis: 1000, Retryable: true,
			},
		},
		"the version's limit counts before the room": {
			nodes: []placement.Node{
				with(emptyNode("a"), runs(version(3), 1), reserved(resources(gib, 4000, 100))),
			},
			request: func(r *wire.PlaceRequest) { r.MaxInstances = 1 },
			want: &wire.Error{
				Code:             wire.CodeThrottled,
				Message:          "resize:3 has 1 of at most 1 instances; try again later or raise maxInstances",
				RetryAfterMillis: 1000, Retryable: true,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := usual()
			if test.request != nil {
				test.request(&r)
			}
			d, err := place(test.nodes, r, 1)
			if diff := cmp.Diff(test.want, err); diff != "" || d != (placement.Decision{}) {
				t.Fatalf("decision %+v, error (-want +got):\n%s", d, diff)
			}
		})
	}
}

// A large cluster is explained by some of its nodes, and what it says of all holds
// for all.
func TestRefusalsOfMany(t *testing.T) {
	nodes := make([]placement.Node, 2000)
	for i := range nodes {
		n := emptyNode(wire.NodeID(fmt.Sprintf("node-%04d", i)))
		nodes[i] = with(n, reserved(n.Capacity))
	}
	nodes[1001] = with(nodes[1001], draining)
	nodes[1003] = with(nodes[1003], capacity(resources(4*gib, 8000, 10)), reserved(resources(4*gib, 8000, 10)))
	for name, test := range map[string]struct {
		memory int64
		want   string
	}{
		"full": {
			128 * mib, "no node can take resize:3 now: 2000 nodes, of 125 of them: " +
				"125 lack memory (largest free 0 bytes, needed 128 MiB); try again later or add a node",
		},
		"one that is not looked at could": {
			4 * gib, "no node can take resize:3 now: 2000 nodes, of 125 of them: " +
				"125 lack memory (largest free 0 bytes, needed 4 GiB); try again later or add a node",
		},
		"too large": {
			5 * gib, "no connected node is large enough for resize:3: it needs 5 GiB of memory and the largest node has 4 GiB; " +
				"lower what it asks for or add a larger node",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := usual()
			r.Needs.MemoryBytes = test.memory
			if _, err := place(nodes, r, 1); err == nil || err.Code != wire.CodeNoCapacity || err.Message != test.want {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
		})
	}
}
