package functions

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

// schemaNode is the part of JSON schema that the manifest's schema uses.
type schemaNode struct {
	Properties    map[string]*schemaNode `json:"properties"`
	Required      []string               `json:"required"`
	Enum          []string               `json:"enum"`
	Pattern       string                 `json:"pattern"`
	Minimum       float64                `json:"minimum"`
	Maximum       float64                `json:"maximum"`
	MaxLength     int                    `json:"maxLength"`
	MaxItems      int                    `json:"maxItems"`
	MaxProperties int                    `json:"maxProperties"`
	Default       any                    `json:"default"`
	OneOf         []*schemaNode          `json:"oneOf"`
	AllOf         []*schemaNode          `json:"allOf"`
	Then          *schemaNode            `json:"then"`
	Items         *schemaNode            `json:"items"`
	Defs          map[string]*schemaNode `json:"$defs"`
	Not           *schemaNode            `json:"not"`
	PropertyNames *schemaNode            `json:"propertyNames"`
}

func readSchema(t *testing.T) *schemaNode {
	t.Helper()
	var schema schemaNode
	if err := json.Unmarshal(ManifestSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	return &schema
}

func TestSchemaHasTheKeysOfTheParser(t *testing.T) {
	schema := readSchema(t)
	triggers := schema.Properties["triggers"].Items
	var reader manifestReader
	for _, test := range []struct {
		name   string
		schema *schemaNode
		fields []field
	}{
		{"manifest", schema, reader.fields()},
		{"output", schema.Properties["output"], reader.outputFields()},
		{"secret", schema.Properties["secrets"].Items.OneOf[1], secretFields(&SecretUse{})},
		{"triggers", triggers, triggerFields(&Trigger{})},
		{"queue", triggers.Properties["queue"], queueFields(&QueueTrigger{})},
		{"batch", triggers.Properties["queue"].Properties["batch"], batchFields(&BatchSpec{})},
		{"cron", triggers.Properties["cron"], cronFields(&CronTrigger{})},
		{"bucket", triggers.Properties["bucket"], bucketFields(&BucketTrigger{})},
		{"retry", schema.Properties["retry"], reader.retryFields()},
		{"onSuccess", schema.Properties["onSuccess"], (&Destination{}).fields()},
		{"onFailure", schema.Properties["onFailure"], (&Destination{}).fields()},
	} {
		want := slices.Sorted(slices.Values(keysOf(test.fields)))
		got := slices.Sorted(maps.Keys(test.schema.Properties))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestSchemaHasTheBoundsOfTheParser(t *testing.T) {
	schema := readSchema(t)
	p := schema.Properties
	triggers := p["triggers"].Items.Properties
	queue, bucket := triggers["queue"].Properties, triggers["bucket"].Properties
	batch := queue["batch"].Properties
	retry := p["retry"].Properties
	moduleRule := schema.AllOf[0].Then
	for _, test := range []struct {
		what      string
		got, want any
	}{
		{"required", schema.Required, []string{"name", "runtime"}},
		{"runtimes", p["runtime"].Enum, Runtimes()},
		{"networks", p["network"].Enum, Networks()},
		{"network default", p["network"].Default, any(DefaultNetwork)},
		{"handler length", p["handler"].MaxLength, MaxHandlerBytes},
		{"handler", p["handler"].Pattern, plainHandlerPattern.String()},
		{"image length", p["image"].MaxLength, MaxImageBytes},
		{"image", p["image"].Pattern, plainHandlerPattern.String()},
		{"module handler", moduleRule.Properties["handler"].Pattern, moduleHandlerPattern.String()},
		{"module handler required", moduleRule.Required, []string{"handler"}},
		{"memory least", p["memory"].OneOf[0].Minimum, float64(MinMemoryBytes)},
		{"memory most", p["memory"].OneOf[0].Maximum, float64(MaxMemoryBytes)},
		{"memory", p["memory"].OneOf[1].Pattern, sizePattern.String()},
		{"memory default", p["memory"].Default, any(formatSize(DefaultMemoryBytes))},
		{"cpu least", p["cpu"].OneOf[0].Minimum, float64(MinCPUMillis) / 1000},
		{"cpu most", p["cpu"].OneOf[0].Maximum, float64(MaxCPUMillis) / 1000},
		{"cpu", p["cpu"].OneOf[1].Pattern, cpuPattern.String()},
		{"cpu default", p["cpu"].Default, any(formatCPU(DefaultCPUMillis))},
		{"timeout", p["timeout"].Pattern, durationPattern.String()},
		{"timeout default", p["timeout"].Default, any(formatDuration(DefaultTimeout))},
		{"instances least", p["maxInstances"].Minimum, 1.0},
		{"instances most", p["maxInstances"].Maximum, float64(MaxMaxInstances)},
		{"instances default", p["maxInstances"].Default, any(float64(DefaultMaxInstances))},
		{"concurrency least", p["concurrency"].Minimum, 1.0},
		{"concurrency most", p["concurrency"].Maximum, float64(MaxConcurrency)},
		{"concurrency default", p["concurrency"].Default, any(float64(DefaultConcurrency))},
		{"minInstances most", p["minInstances"].Maximum, float64(MaxMaxInstances)},
		{"minInstances default", p["minInstances"].Default, any(0.0)},
		{"isolations", p["isolation"].Enum, Isolations()},
		{"isolation default", p["isolation"].Default, any(DefaultIsolation)},
		{"triggers", p["triggers"].MaxItems, MaxTriggers},
		{"subject length", queue["subject"].MaxLength, wire.MaxSubjectBytes},
		{"stream", queue["stream"].Pattern, streamPattern.String()},
		{"batch size least", batch["size"].Minimum, 1.0},
		{"batch size most", batch["size"].Maximum, float64(MaxBatchSize)},
		{"batch size default", batch["size"].Default, any(float64(DefaultBatchSize))},
		{"batch window", batch["window"].Pattern, durationPattern.String()},
		{"missed", triggers["cron"].Properties["missed"].Enum, Missed()},
		{"bucket", bucket["bucket"].Pattern, bucketPattern.String()},
		{"bucket length", bucket["bucket"].MaxLength, maxBucketBytes},
		{"bucket events", bucket["events"].Items.Enum, BucketEvents()},
		{"prefix length", bucket["prefix"].MaxLength, MaxObjectKeyBytes},
		{"suffix length", bucket["suffix"].MaxLength, MaxObjectKeyBytes},
		{"attempts least", retry["attempts"].Minimum, 1.0},
		{"attempts most", retry["attempts"].Maximum, float64(MaxAttempts)},
		{"attempts default", retry["attempts"].Default, any(float64(DefaultAttempts))},
		{"max age", retry["maxAge"].Pattern, agePattern.String()},
		{"max age default", retry["maxAge"].Default, any(formatAge(DefaultEventAge))},
		{"backoffs", retry["backoff"].Enum, Backoffs()},
		{"backoff default", retry["backoff"].Default, any(DefaultBackoff)},
		{"delay", retry["delay"].Pattern, agePattern.String()},
		{"delay default", retry["delay"].Default, any(formatAge(DefaultRetryDelay))},
		{"dead letter default", p["deadLetter"].Default, any(true)},
		{"destination subject", p["onSuccess"].Properties["subject"].MaxLength, wire.MaxSubjectBytes},
		{"env entries", p["env"].MaxProperties, MaxEnvEntries},
		{"env names", p["env"].PropertyNames.Pattern, envKeyPattern.String()},
		{"selector", p["nodeSelector"].MaxProperties, wire.MaxSelector},
		{"secrets", p["secrets"].MaxItems, MaxSecrets},
		{"secret places", p["secrets"].Items.OneOf[1].Properties["as"].Enum, SecretsAs()},
		{"secret default", p["secrets"].Items.OneOf[1].Properties["as"].Default, any(SecretAsBoth)},
		{"secret names", schema.Defs["secretName"].Pattern, envKeyPattern.String()},
		{"secret name length", schema.Defs["secretName"].MaxLength, MaxSecretNameBytes},
		{"secret names refused", schema.Defs["secretName"].Not.Pattern, p["env"].PropertyNames.Not.Pattern},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s: %s", test.what, diff)
		}
	}
}

func TestSchemaAgreesAboutNames(t *testing.T) {
	schema := readSchema(t)
	name := regexp.MustCompile(schema.Properties["name"].Pattern)
	for _, s := range []string{"", "a", "a-b", "-a", "a-", "A", "a_b", "a.b", "1", string(make([]byte, 64))} {
		if name.MatchString(s) != wire.ValidName(s) {
			t.Errorf("name %q: the schema says %v", s, name.MatchString(s))
		}
	}
	reserved := regexp.MustCompile(schema.Properties["env"].PropertyNames.Not.Pattern)
	for _, key := range append(reservedEnv(), reservedEnvPrefix+"X", reservedEnvPrefix) {
		if !reserved.MatchString(key) {
			t.Errorf("variable %s: the schema allows it", key)
		}
	}
	label := regexp.MustCompile(schema.Properties["nodeSelector"].PropertyNames.Pattern)
	for _, s := range []string{"", "a", "disk", "A.b/c_d-1", "-a", "a-", "a b", "ä", strings.Repeat("a", 63), strings.Repeat("a", 64)} {
		if label.MatchString(s) != wire.ValidLabel(s) {
			t.Errorf("label %q: the schema says %v", s, label.MatchString(s))
		}
	}
	if reserved.MatchString("SIZE") || reserved.MatchString("MY_DAYFLY_X") {
		t.Error("the schema refuses too much")
	}
}
