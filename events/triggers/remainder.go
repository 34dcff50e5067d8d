package triggers

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/dayfly-run/dayfly/wire"
)

// batchReport is how a function says that it failed at some messages of its batch.
type batchReport struct {
	Failures []struct {
		ID string `json:"itemIdentifier"`
	} `json:"batchItemFailures"`
}

// Remainder reads a function's result for the event of a queue trigger and returns the
// event with the messages that it reports as failed, and how many of how many these are.
// No failed ones, or a result that is no report, is a success. A report of a message that
// was not in the event, or of none by name, counts for all of them, as AWS Lambda has it.
func Remainder(payload, result []byte) (rest []byte, failed, all int, err error) {
	var report batchReport
	if !isReport(result, &report) {
		return nil, 0, 0, nil
	}
	var event struct {
		Records []map[string]json.RawMessage `json:"Records"` //nolint:tagliatelle // as AWS spells it
	}
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, 0, 0, wire.Errorf(wire.CodeInternal, "the event of a queue is malformed: %s", err)
	}
	ids := make([]string, len(event.Records))
	for i, r := range event.Records {
		if err := json.Unmarshal(r["messageId"], &ids[i]); err != nil {
			return nil, 0, 0, wire.Errorf(wire.CodeInternal, "the event of a queue is malformed: %s", err)
		}
	}
	reported := map[string]bool{}
	for _, f := range report.Failures {
		if !slices.Contains(ids, f.ID) {
			return payload, len(ids), len(ids), nil
		}
		reported[f.ID] = true
	}
	var kept []map[string]json.RawMessage
	for i, r := range event.Records {
		if reported[ids[i]] {
			kept = append(kept, countReceived(r))
		}
	}
	rest, err = json.Marshal(map[string]any{"Records": kept})
	return rest, len(kept), len(ids), err
}

// isReport reads a result that reports failures.
func isReport(result []byte, report *batchReport) bool {
	return json.Unmarshal(result, report) == nil && len(report.Failures) > 0
}

// countReceived adds one to how often a message was given to the function.
func countReceived(record map[string]json.RawMessage) map[string]json.RawMessage {
	var attributes map[string]string
	if json.Unmarshal(record["attributes"], &attributes) != nil {
		return record
	}
	if n, err := strconv.Atoi(attributes[attributeReceived]); err == nil {
		attributes[attributeReceived] = strconv.Itoa(n + 1)
		if data, err := json.Marshal(attributes); err == nil {
			record["attributes"] = data
		}
	}
	return record
}
