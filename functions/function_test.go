package functions

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestResolve(t *testing.T) {
	three := Function{
		FunctionID: wire.FunctionID{Namespace: "team-a", Name: "resize"},
		Aliases:    map[string]Alias{"live": {Version: 2}, "beta": {Version: 3}, "1": {Version: 3}},
		Versions:   []int{1, 2, 3},
		Latest:     3,
	}
	none := Function{FunctionID: wire.FunctionID{Namespace: "default", Name: "new"}}
	one := Function{FunctionID: none.FunctionID, Versions: []int{4}, Latest: 4}
	gaps := Function{FunctionID: none.FunctionID, Versions: []int{2, 5, 6, 7, 9, 10}, Latest: 10}
	for _, test := range []struct {
		function  Function
		qualifier string
		want      int
		message   string
	}{
		{three, "live", 2, ""},
		{three, "beta", 3, ""},
		{three, "3", 3, ""},
		{three, "1", 1, ""}, // a number is a version, even beside an alias of that name
		{three, "4", 0, "function resize.team-a has no version 4; its versions are 1 to 3, its aliases: 1, beta, live"},
		{three, "0", 0, `function resize.team-a has no alias "0"; its versions are 1 to 3, its aliases: 1, beta, live`},
		{three, "prod", 0, `function resize.team-a has no alias "prod"; its versions are 1 to 3, its aliases: 1, beta, live`},
		{three, "", 0, `function resize.team-a has no alias ""; its versions are 1 to 3, its aliases: 1, beta, live`},
		{one, "live", 0, `function new has no alias "live"; its only version is 4, it has no aliases`},
		{gaps, "3", 0, "function new has no version 3; its versions are 2, 5 to 7, 9 to 10, it has no aliases"},
		{none, "live", 0, `function new has no alias "live"; it has no versions yet; deploy it first`},
	} {
		got, err := test.function.Resolve(test.qualifier, MainDraw)
		if got != test.want || (err == nil) != (test.message == "") {
			t.Errorf("%s: got %d, %v", test.qualifier, got, err)
		}
		if err != nil && (!wire.HasCode(err, wire.CodeNotFound) || wire.AsError(err).Message != test.message) {
			t.Errorf("%s: got %v, want %s", test.qualifier, err, test.message)
		}
	}
}

// The JSON is a contract with clients in other languages.
func TestJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	id := wire.FunctionID{Namespace: "default", Name: "a"}
	for _, test := range []struct {
		value any
		want  string
	}{
		{
			Function{FunctionID: id, Aliases: map[string]Alias{"live": {Version: 3, Weights: map[int]int{2: 10}}}, Versions: []int{2, 3}, Latest: 3, Previous: 2, Decided: 3, CreatedAt: at, UpdatedAt: at},
			`{"namespace":"default","name":"a","aliases":{"live":{"version":3,"weights":{"2":10}}},"versions":[2,3],"latest":3,"previous":2,"decided":3,"createdAt":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z"}`,
		},
		{
			Version{
				VersionID: wire.VersionID{FunctionID: id, Number: 3}, Artifact: Artifact{Code: "c0de", CodeBytes: 9}, CreatedAt: at,
				Spec: Spec{
					Runtime: "go", Handler: "bootstrap", MemoryBytes: 1, CPUMillis: 2, TimeoutMillis: 3, Concurrency: 4,
					MaxInstances: 5, MinInstances: 6, Env: map[string]string{"A": "b"}, Isolation: "shared", Network: "none", Output: OutputSpec{Store: true},
					EventSpec: EventSpec{
						Retry: RetrySpec{Attempts: 7, MaxAgeMillis: 8, Backoff: "constant", DelayMillis: 9}, DeadLetter: true,
						OnSuccess: &Destination{Function: "a"}, OnFailure: &Destination{Subject: "b"},
					},
				},
			},
			`{"namespace":"default","name":"a","number":3,"spec":{"runtime":"go","handler":"bootstrap","memoryBytes":1,"cpuMillis":2,` +
				`"timeoutMillis":3,"concurrency":4,"maxInstances":5,"minInstances":6,"env":{"A":"b"},"isolation":"shared","network":"none","output":{"store":true},` +
				`"retry":{"attempts":7,"maxAgeMillis":8,"backoff":"constant","delayMillis":9},"deadLetter":true,"onSuccess":{"function":"a"},"onFailure":{"subject":"b"}},` +
				`"code":"c0de","codeBytes":9,"createdAt":"2026-01-02T03:04:05Z"}`,
		},
	} {
		got, err := json.Marshal(test.value)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, string(got)); diff != "" {
			t.Error(diff)
		}
	}
}
