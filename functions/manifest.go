package functions

import (
	"cmp"
	"regexp"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// ManifestName is the file in the root of a bundle that says what the function is.
const ManifestName = "dayfly.yaml"

// Manifest is what a [ManifestName] file says, with the defaults filled in.
type Manifest struct {
	Name string
	Spec Spec
}

// What a handler looks like; the JSON schema holds the same patterns.
var (
	moduleHandlerPattern = regexp.MustCompile(`^([A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.[A-Za-z_$][A-Za-z0-9_$]*$`)
	plainHandlerPattern  = regexp.MustCompile(`^[!-~]+$`)
)

// ParseManifest reads a manifest strictly: whatever it does not know is an error. All problems are reported at once, a line
// of text for each that begins with file name and line number, as one
// [*wire.Error] with code invalid.
func ParseManifest(data []byte) (Manifest, error) {
	r := manifestReader{given: map[string]value{}}
	r.manifest.Spec = Spec{
		MemoryBytes:   DefaultMemoryBytes,
		CPUMillis:     DefaultCPUMillis,
		TimeoutMillis: DefaultTimeout.Milliseconds(),
		Concurrency:   DefaultConcurrency,
		MaxInstances:  DefaultMaxInstances,
		Isolation:     DefaultIsolation,
		Network:       DefaultNetwork,
		EventSpec:     DefaultEventSpec(),
	}
	if document := readDocument(data, &r.problems); document != nil {
		value{node: document, line: lineOf(document), problems: &r.problems}.fields(r.fields())
		r.checkRequired()
		r.checkHandler()
		r.checkImage()
		r.checkInstances()
		r.checkSecrets()
	}
	if err := r.problems.err(); err != nil {
		return Manifest{}, err
	}
	return r.manifest, nil
}

// manifestReader fills in a manifest key by key.
type manifestReader struct {
	manifest Manifest
	problems problems
	// given holds values that are checked once all are read.
	given map[string]value
}

// fields is the table of every key that a manifest may have.
func (r *manifestReader) fields() []field {
	s := &r.manifest.Spec
	return append([]field{
		{"name", r.readName},
		{"runtime", r.readRuntime},
		{"handler", func(v value) { r.given["handler"] = v }},
		{"image", func(v value) { r.given["image"] = v }},
		{"memory", func(v value) {
			readQuantity(v, parseSize, formatSize, MinMemoryBytes, MaxMemoryBytes, &s.MemoryBytes)
		}},
		{"cpu", func(v value) { readQuantity(v, parseCPU, formatCPU, MinCPUMillis, MaxCPUMillis, &s.CPUMillis) }},
		{"timeout", r.readTimeout},
		{"concurrency", func(v value) { r.readCount("concurrency", v, 1, MaxConcurrency, &s.Concurrency) }},
		{"maxInstances", func(v value) { r.readCount("maxInstances", v, 1, MaxMaxInstances, &s.MaxInstances) }},
		{"minInstances", func(v value) { r.readCount("minInstances", v, 0, MaxMaxInstances, &s.MinInstances) }},
		{"isolation", r.readIsolation},
		{"env", r.readEnv},
		{"nodeSelector", r.readNodeSelector},
		{"secrets", r.readSecrets},
		{"network", r.readNetwork},
		{"output", func(v value) { v.fields(r.outputFields()) }},
		{"triggers", r.readTriggers},
	}, r.eventFields()...)
}

func (r *manifestReader) outputFields() []field {
	return []field{{"store", func(v value) {
		if store, ok := v.boolean(); ok {
			r.manifest.Spec.Output.Store = store
		}
	}}}
}

func (r *manifestReader) readName(v value) {
	r.given["name"] = v
	name, ok := v.text()
	if !ok {
		return
	}
	if !wire.ValidName(name) {
		v.reject("%s is not a name; use lower-case letters, digits and inner hyphens, at most 63", shown(name))
	}
	r.manifest.Name = name
}

func (r *manifestReader) readRuntime(v value) {
	r.given["runtime"] = v
	runtime, ok := v.text()
	switch {
	case !ok:
	case !slices.Contains(Runtimes(), runtime):
		v.reject("%s is not a runtime; %s", shown(runtime), suggestion(runtime, Runtimes()))
	default:
		r.manifest.Spec.Runtime = runtime
	}
}

func (r *manifestReader) readTimeout(v value) {
	var timeout time.Duration
	if readQuantity(v, parseDuration, formatDuration, MinTimeout, MaxTimeout, &timeout) {
		r.manifest.Spec.TimeoutMillis = timeout.Milliseconds()
	}
}

func (r *manifestReader) readCount(key string, v value, least, most int64, into *int) {
	r.given[key] = v
	var n int64
	if readQuantity(v, parseWhole, formatWhole, least, most, &n) {
		*into = int(n)
	}
}

func (r *manifestReader) readIsolation(v value) {
	isolation, ok := v.text()
	if !ok {
		return
	}
	if !slices.Contains(Isolations(), isolation) {
		v.reject("%s is not a kind of isolation; use %s", shown(isolation), oneOf(Isolations()))
	}
	r.manifest.Spec.Isolation = isolation
}

func (r *manifestReader) readNetwork(v value) {
	network, ok := v.text()
	if !ok {
		return
	}
	if !slices.Contains(Networks(), network) {
		v.reject("%s is not a kind of network; use %s", shown(network), oneOf(Networks()))
	}
	r.manifest.Spec.Network = network
}

// readQuantity parses a value and stores it when it is within its bounds.
func readQuantity[N cmp.Ordered](
	v value, parse func(string) (N, error), format func(N) string, least, most N, into *N,
) bool {
	text, ok := v.quantity()
	if !ok {
		return false
	}
	n, err := parse(text)
	if err != nil {
		v.reject("%s %s (%s to %s)", shown(text), err, format(least), format(most))
		return false
	}
	if n < least || n > most {
		v.reject("%s is out of bounds; %s to %s are allowed", shown(text), format(least), format(most))
		return false
	}
	*into = n
	return true
}

// checkRequired reports keys that every manifest needs.
func (r *manifestReader) checkRequired() {
	if _, ok := r.given["name"]; !ok {
		r.problems.add(1, `"name" is missing; add one, as in "name: thumbnail"`)
	}
	if _, ok := r.given["runtime"]; !ok {
		r.problems.add(1, `"runtime" is missing; use %s`, oneOf(Runtimes()))
	}
}

// checkHandler checks the handler, or fills it in, as the runtime wants it.
func (r *manifestReader) checkHandler() {
	s := &r.manifest.Spec
	needsModule := s.Runtime == RuntimePython || s.Runtime == RuntimeNode
	v, given := r.given["handler"]
	if !given {
		if needsModule {
			r.given["runtime"].add(r.given["runtime"].line,
				`"handler" is missing; %s needs module.function, as in "handler: app.handler"`, s.Runtime)
		}
		if s.Runtime != RuntimeImage { // it has a command of its own
			s.Handler = DefaultHandler
		}
		return
	}
	handler, ok := v.text()
	switch {
	case !ok:
	case len(handler) > MaxHandlerBytes:
		v.reject("the text has %d bytes; at most %d are allowed", len(handler), MaxHandlerBytes)
	case needsModule && !moduleHandlerPattern.MatchString(handler):
		v.reject("%s is not module.function; write app.handler, or src/app.handler for a module in a folder", shown(handler))
	case !plainHandlerPattern.MatchString(handler):
		v.reject("%s is not a handler; use printable ASCII without spaces", shown(handler))
	}
	s.Handler = handler
}

// checkImage reports an image that is none, or that nothing would use.
func (r *manifestReader) checkImage() {
	v, given := r.given["image"]
	if !given {
		return
	}
	image, ok := v.text()
	switch {
	case !ok:
	case r.manifest.Spec.Runtime != RuntimeImage:
		v.reject("only the runtime %s runs an image; write \"runtime: %s\", or remove this key", RuntimeImage, RuntimeImage)
	case len(image) > MaxImageBytes:
		v.reject("the text has %d bytes; at most %d are allowed", len(image), MaxImageBytes)
	case !plainHandlerPattern.MatchString(image):
		v.reject("%s is neither a file of the bundle nor a reference; use printable ASCII without spaces", shown(image))
	}
	r.manifest.Spec.Image = image
}

// checkInstances reports settings of instances that contradict each other.
func (r *manifestReader) checkInstances() {
	s := r.manifest.Spec
	if v := r.given["minInstances"]; s.MinInstances > s.MaxInstances {
		v.reject("%d is more than maxInstances, which is %d; raise that one", s.MinInstances, s.MaxInstances)
	} else if s.MinInstances > 0 && s.Isolation == IsolationInvocation {
		v.reject("nothing can be kept running with isolation: invocation, where every event has an instance of its own; remove one of the two")
	}
	if v := r.given["concurrency"]; s.Concurrency > 1 && s.Isolation == IsolationInvocation {
		v.reject("more than 1 contradicts isolation: invocation; remove one of the two")
	} else if s.Concurrency > 1 && s.Output.Store {
		v.reject("more than 1 does not go with output.store: the files in the output folder would belong to no single invocation; use 1")
	}
}
