package functions

import (
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Runtimes that this release can run.
const (
	RuntimePython = "python"
	RuntimeNode   = "node"
	// RuntimeGo is Go source that the builder compiles to a static binary.
	RuntimeGo = "go"
	// RuntimeProvided is any executable that speaks the Lambda Runtime API.
	RuntimeProvided = "provided"
	// RuntimeImage is the user's own container image, whose process speaks the
	// Lambda Runtime API.
	RuntimeImage = "image"
)

// DefaultHandler is the handler of a go or provided function that names none.
const DefaultHandler = "bootstrap"

// What an instance may reach over the network.
const (
	NetworkNone = "none"
	// NetworkEgress reaches public addresses only, no private ranges.
	NetworkEgress = "egress"
	NetworkOpen   = "open"
)

// How events share instances.
const (
	// IsolationShared lets an instance run one event after the other.
	IsolationShared = "shared"
	// IsolationInvocation gives every event an instance of its own, which is
	// removed afterwards.
	IsolationInvocation = "invocation"
)

// Defaults of a [Spec]; sizes in bytes, CPU in thousandths of a core.
const (
	DefaultMemoryBytes = 128 << 20
	// DefaultCPUMillis is what the scheduler sets aside for an instance, which
	// may use up to one core while the node has it to spare.
	DefaultCPUMillis    = 100
	DefaultTimeout      = wire.DefaultTimeout
	DefaultConcurrency  = 1
	DefaultMaxInstances = 50
	DefaultNetwork      = NetworkEgress
	DefaultIsolation    = IsolationShared
)

// Bounds of a [Spec], both ends included; sizes in bytes, CPU in thousandths of
// a core.
const (
	MinMemoryBytes  = 32 << 20
	MaxMemoryBytes  = 10 << 30
	MinCPUMillis    = 10
	MaxCPUMillis    = 16_000
	MinTimeout      = time.Millisecond
	MaxTimeout      = wire.MaxTimeout
	MaxMaxInstances = 1000
	MaxConcurrency  = 100
	MaxHandlerBytes = 128
	MaxImageBytes   = 512
	MaxEnvEntries   = 100
	// MaxEnvBytes bounds the names and values of the environment together.
	MaxEnvBytes = 32 << 10
)

// Spec says how a version runs. [ParseManifest] is what makes one; every field
// of its result is set and within bounds.
type Spec struct {
	// Runtime is one of the Runtime constants.
	Runtime string `json:"runtime"`
	// Handler is module.function for python and node. Go and provided run the
	// executable "bootstrap", which finds this text in _HANDLER and may use it. For
	// an image it takes the place of the image's CMD, when it is set.
	Handler string `json:"handler,omitempty"`
	// Image says for RuntimeImage where the image comes from: the path of an image
	// archive or of a Dockerfile in the bundle, or else a reference to pull. It is
	// empty for the bundle's Dockerfile.
	Image       string `json:"image,omitempty"`
	MemoryBytes int64  `json:"memoryBytes"`
	// CPUMillis is in thousandths of a core.
	CPUMillis     int64 `json:"cpuMillis"`
	TimeoutMillis int64 `json:"timeoutMillis"`
	// Concurrency is how many invocations one instance runs at once. More than 1
	// goes neither with stored output nor with IsolationInvocation.
	Concurrency int `json:"concurrency"`
	// MaxInstances and MinInstances count the instances of one version in the
	// whole cluster. MinInstances are kept running while `live` points to it.
	MaxInstances int               `json:"maxInstances"`
	MinInstances int               `json:"minInstances"`
	Env          map[string]string `json:"env,omitempty"`
	// NodeSelector lists labels of nodes, all of which a node must have to run it.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Secrets are those that its instances get; none is a variable of Env as well.
	Secrets []SecretUse `json:"secrets,omitempty"`
	// Isolation is one of the Isolation constants.
	Isolation string `json:"isolation"`
	// Network is one of the Network constants.
	Network string     `json:"network"`
	Output  OutputSpec `json:"output"`
	// Triggers are those besides HTTP; they work while `live` points to the version.
	Triggers []Trigger `json:"triggers,omitempty"`
	EventSpec
}

// OutputSpec says what is kept of an invocation.
type OutputSpec struct {
	// Store keeps the result and the files in $DAYFLY_OUTPUT_DIR in S3.
	Store bool `json:"store"`
}

// Timeout is how long one invocation may run.
func (s Spec) Timeout() time.Duration { return time.Duration(s.TimeoutMillis) * time.Millisecond }

// Needs is what the scheduler sets aside for one instance.
func (s Spec) Needs() wire.Resources {
	return wire.Resources{MemoryBytes: s.MemoryBytes, CPUMillis: s.CPUMillis, Instances: 1}
}

// Runtimes lists the runtimes of this release, in the order in which people
// read them. The caller may keep and change the slice.
func Runtimes() []string {
	return []string{RuntimePython, RuntimeNode, RuntimeGo, RuntimeProvided, RuntimeImage}
}

// Isolations lists the values of [Spec].Isolation, the usual one first. The
// caller may keep and change the slice.
func Isolations() []string { return []string{IsolationShared, IsolationInvocation} }

// Networks lists the values of [Spec].Network, strictest first. The caller may
// keep and change the slice.
func Networks() []string { return []string{NetworkNone, NetworkEgress, NetworkOpen} }
