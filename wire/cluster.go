package wire

import (
	"strconv"
	"time"
)

// Protocol is the number of what this binary's messages mean. It grows by one with a
// release whose messages another one may misunderstand; new fields alone do not need it.
const Protocol = 1

// Speaks reports whether this binary works together with one of another protocol: roles
// of two releases next to each other may run in one cluster, so that it can be upgraded
// role by role. Zero is no protocol: its sender forgot to say one.
func Speaks(protocol int) bool {
	return protocol > 0 && protocol >= Protocol-1 && protocol <= Protocol+1
}

// Labels that a node has whether it was given any or not, and that nobody can give it.
const (
	LabelNode    = "node"    // its name
	LabelArch    = "arch"    // amd64, arm64, as Go names them
	LabelSandbox = "sandbox" // docker or oci
)

// LabelZone is what fails together: a rack, a room, a data centre. Instances of a
// function are spread over zones.
const LabelZone = "zone"

// FenceRequest tells a node that a run of its was given up: what ran there was answered
// for, and may run elsewhere already. The node kills it and begins a new run. It is not
// answered; the new run's first word is.
type FenceRequest struct {
	Run string `json:"run"`
	// Epoch is that of the scheduler which gave it up.
	Epoch uint64 `json:"epoch"`
}

// NodeFenceSubject is where a node takes a [FenceRequest].
func NodeFenceSubject(n NodeID) string { return "dayfly.node." + string(n) + ".fence" }

// BucketNodes is the key-value bucket of what operators want of nodes: a [NodeOrder] by
// node. It outlives the node's runs.
const BucketNodes = "dayfly_nodes"

// MaxNodeOrder bounds an order, in bytes.
const MaxNodeOrder = 1 << 10

// NodeOrder is what an operator wants of a node.
type NodeOrder struct {
	// Draining says that the node takes nothing new and gives up what it has.
	Draining bool      `json:"draining,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

// DrainState is how far a node is with what was wanted of it.
type DrainState struct {
	Node NodeID `json:"node"`
	// Ordered says that somebody wants it to drain, Since when that was said.
	Ordered bool      `json:"ordered"`
	Since   time.Time `json:"since,omitzero"`
	// Gone says that nothing is heard of the node. It is told when it comes back.
	Gone bool `json:"gone,omitempty"`
	// Draining and Drained are the node's own words; see [NodeState].
	Draining bool `json:"draining"`
	Drained  bool `json:"drained"`
	// Instances are those of functions, Busy the ones of them that run something, and
	// Stems the containers that wait for a function.
	Instances int `json:"instances"`
	Busy      int `json:"busy"`
	Stems     int `json:"stems"`
	// Kept are the instances that stay until others stand in for them.
	Kept []KeptOnNode `json:"kept,omitempty"`
}

// KeptOnNode is what a draining node keeps of a version.
type KeptOnNode struct {
	Version VersionID `json:"version"`
	Count   int       `json:"count"`
	// Elsewhere is how many other nodes keep that do not drain, Ready how many of these
	// take calls.
	Elsewhere int `json:"elsewhere"`
	Ready     int `json:"ready"`
}

// RoleProbeSubject asks every process of the cluster for its [RoleState].
const RoleProbeSubject = "dayfly.roles.probe"

// RoleProtocolSubject asks one process of each protocol that runs for its [RoleState].
const RoleProtocolSubject = "dayfly.roles.protocol"

// RoleProtocolGroup is the queue group in which the processes of a protocol listen to
// [RoleProtocolSubject].
func RoleProtocolGroup(protocol int) string { return "protocol-" + strconv.Itoa(protocol) }

// NodeRoleSubject asks the process of a node for its [RoleState]. There is one, or nodes
// have the same name.
func NodeRoleSubject(n NodeID) string { return "dayfly.node." + string(n) + ".role" }

// RoleState is what a process says of itself when it is asked.
type RoleState struct {
	// Process differs after every start.
	Process string `json:"process"`
	// Role is the command that runs: up, gateway, scheduler, invoker, events or builder.
	Role string `json:"role"`
	Host string `json:"host"`
	// Node is the invoker's, if there is one in the process.
	Node     NodeID    `json:"node,omitempty"`
	Build    string    `json:"build"`
	Protocol int       `json:"protocol"`
	Since    time.Time `json:"since"`
	// At is the process' clock.
	At time.Time `json:"at"`
	// Leads says that the process' scheduler leads.
	Leads bool `json:"leads,omitempty"`
}
