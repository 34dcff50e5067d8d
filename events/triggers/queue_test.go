package triggers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestAMessageIsAnSQSRecord(t *testing.T) {
	w := newWorld(t)
	w.deploy(queue(functions.QueueTrigger{Subject: "orders.*"}))
	w.send(bus.Outgoing{Subject: "orders.created", Headers: map[string]string{"X-Shop": "7"}, Data: []byte(`{"a":1}`)})
	w.start()
	e := w.await(1)[0]
	if e.Source != wire.SourceQueue || e.Order != "" {
		t.Errorf("%+v", e.Event)
	}
	got := records(t, e)
	want := []message{{
		Body: `{"a":1}`,
		Attributes: map[string]string{
			"ApproximateReceiveCount": "1", "Subject": "orders.created", "Stream": wire.StreamInbox, "SequenceNumber": "1",
			"SentTimestamp": got[0].Attributes["SentTimestamp"],
		},
		MessageAttributes: map[string]messageAttribute{"X-Shop": {DataType: "String", StringValue: "7"}},
		EventSource:       "dayfly:nats", EventSourceARN: "arn:dayfly:nats:::dayfly_inbox",
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(message{}, "MessageID")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	sent, err := strconv.ParseInt(got[0].Attributes["SentTimestamp"], 10, 64)
	if age := time.Since(time.UnixMilli(sent)); err != nil || age < 0 || age > time.Minute || !wire.InvocationID(got[0].MessageID).Valid() {
		t.Errorf("%s, %s, %v", got[0].MessageID, age, err)
	}
}

// TestMessagesTellOfTheirCause: a circle of functions by way of messages is seen as one;
// of a batch the longest way counts.
func TestMessagesTellOfTheirCause(t *testing.T) {
	w := newWorld(t)
	w.deploy(queue(functions.QueueTrigger{Subject: "in", Batch: functions.BatchSpec{Size: 3, WindowMillis: 60_000}}))
	const first, second = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6"), wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f7")
	w.send(bus.Outgoing{Subject: "in", Headers: wire.CauseHeaders(first, 2)})
	w.send(bus.Outgoing{Subject: "in", Headers: wire.CauseHeaders(second, 5)})
	w.send(bus.Outgoing{Subject: "in"})
	w.start()
	if e := w.await(1)[0]; e.Cause != second || e.Depth != 5 {
		t.Errorf("it came of %s, %d steps", e.Cause, e.Depth)
	}
}

func TestCloudEventsAndBinaryData(t *testing.T) {
	w := newWorld(t)
	w.deploy(queue(functions.QueueTrigger{Subject: "in"}))
	w.start()
	binary := map[string]string{"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order", "Content-Type": "text/plain"}
	w.send(bus.Outgoing{Subject: "in", Headers: binary, Data: []byte("one")})
	structured := map[string]string{"content-type": "application/cloudevents+json"}
	w.send(bus.Outgoing{Subject: "in", Headers: structured, Data: []byte(`{"specversion":"1.0","id":"2","source":"/shop","type":"order","data":{"a":1}}`)})
	w.send(bus.Outgoing{Subject: "in", Headers: structured, Data: []byte(`{"id":"3"}`)})
	w.send(bus.Outgoing{Subject: "in", Data: []byte{0xff, 0}})
	got := map[string]message{}
	for _, e := range w.await(4) {
		r := records(t, e)[0]
		got[r.Body] = r
	}
	if ce := got["one"].CloudEvent; ce["id"] != "1" || ce["datacontenttype"] != "text/plain" {
		t.Errorf("binary: %v", ce)
	}
	if ce := got[`{"a":1}`].CloudEvent; ce["id"] != "2" || ce["type"] != "order" {
		t.Errorf("structured: %v", ce)
	}
	if r, ok := got[`{"id":"3"}`]; !ok || r.CloudEvent != nil {
		t.Errorf("one that only looks like it: %+v", r)
	}
	if r, ok := got["/wA="]; !ok || r.Attributes["Encoding"] != "base64" {
		t.Errorf("not text: %+v", got)
	}
}

func TestBatchesBySizeAndWindow(t *testing.T) {
	for name, batch := range map[string]functions.BatchSpec{
		"what is there": {Size: 10},
		"a window":      {Size: 10, WindowMillis: 60_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deploy(queue(functions.QueueTrigger{Subject: "in", Batch: batch}))
			var want []string
			for i := range 20 {
				want = append(want, strconv.Itoa(i))
				w.send(bus.Outgoing{Subject: "in", Data: []byte(strconv.Itoa(i))})
			}
			w.counted()
			w.start()
			events := w.await(2)
			for _, e := range events {
				if n := len(records(t, e)); n != 10 {
					t.Errorf("a batch of %d", n)
				}
			}
			if diff := cmp.Diff(want, bodies(t, events)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("the window ends", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.deploy(queue(functions.QueueTrigger{Subject: "in", Batch: functions.BatchSpec{Size: 10, WindowMillis: 2000}}))
		for range 3 {
			w.send(bus.Outgoing{Subject: "in"})
		}
		w.counted()
		w.start()
		if n := len(records(t, w.await(1)[0])); n != 3 {
			t.Errorf("a batch of %d", n)
		}
	})
}

func TestSplitBatches(t *testing.T) {
	large := make([]byte, maxBatchBytes/2+1)
	for name, test := range map[string]struct {
		batch []*bus.Delivery
		want  []int
	}{
		"small":          {[]*bus.Delivery{{Count: 1}, {Count: 1}, {Count: 1}}, []int{3}},
		"large":          {[]*bus.Delivery{{Data: large, Count: 1}, {Data: large, Count: 1}, {Count: 1}}, []int{1, 2}},
		"one too large":  {[]*bus.Delivery{{Data: make([]byte, 3*maxBatchBytes), Count: 1}, {Count: 1}}, []int{1, 1}},
		"again and anew": {[]*bus.Delivery{{Count: 2}, {Count: 3}, {Count: 1}, {Count: 1}}, []int{2, 2}},
	} {
		var got []int
		for _, part := range split(test.batch) {
			got = append(got, len(part))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestNothingIsLostNorTwice: three workers share the messages while one after the other
// is killed.
func TestNothingIsLostNorTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deploy(queue(functions.QueueTrigger{Subject: "in.>"}))
	workers := []*worker{w.join(), w.join(), w.join()}
	const messages = 600
	var want []string
	for i := range messages {
		want = append(want, strconv.Itoa(i))
		w.send(bus.Outgoing{Subject: fmt.Sprintf("in.%d", i%7), Data: []byte(strconv.Itoa(i))})
		if i%100 == 50 {
			victim := i / 100 % len(workers)
			workers[victim].kill(t)
			workers[victim] = w.join()
		}
	}
	t.Cleanup(func() {
		for _, v := range workers {
			v.leave(t)
		}
	})
	// What a killed worker held comes again after a while, if it has to.
	embedtest.Eventually(t, "all are accepted", func() bool { return len(w.events()) >= messages })
	if diff := cmp.Diff(want, bodies(t, w.events())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOrderedKeepsTheOrderOfAKey, with several workers, by header and by subject.
func TestOrderedKeepsTheOrderOfAKey(t *testing.T) {
	w := newWorld(t)
	w.deploy(queue(functions.QueueTrigger{Subject: "in.*", Ordered: true}))
	for range 3 {
		w.start()
	}
	const messages = 90
	for i := range messages {
		m := bus.Outgoing{Subject: "in." + strconv.Itoa(i%3), Data: []byte(strconv.Itoa(i))}
		if i%3 == 0 {
			m.Headers = map[string]string{wire.HeaderKey: "k" + strconv.Itoa(i%2)}
		}
		w.send(m)
	}
	last := map[string]int{}
	for _, e := range w.await(messages) {
		r := records(t, e)[0]
		n, err := strconv.Atoi(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if n < last[e.Order] {
			t.Errorf("%s: %d after %d", e.Order, n, last[e.Order])
		}
		last[e.Order] = n
		if e.Order != r.Attributes["MessageGroupId"] {
			t.Errorf("key %q, group %q", e.Order, r.Attributes["MessageGroupId"])
		}
	}
	if keys := len(last); keys != 4 {
		t.Errorf("%d keys: %v", keys, last)
	}
}

// TestTriggersComeAndGo with what is deployed, and keep their place.
func TestTriggersComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.start()
	first, second := queue(functions.QueueTrigger{Subject: "a"}), queue(functions.QueueTrigger{Subject: "b"})
	w.deploy(first)
	w.send(bus.Outgoing{Subject: "a", Data: []byte("1")})
	w.await(1)
	w.deploy(first, second)
	w.send(bus.Outgoing{Subject: "a", Data: []byte("2")})
	w.send(bus.Outgoing{Subject: "b", Data: []byte("3")})
	w.await(3)
	w.deploy(second)
	if _, err := w.conn.Send(t.Context(), bus.Outgoing{Subject: "a"}); err == nil {
		t.Error("what nobody wants is kept")
	}
	w.send(bus.Outgoing{Subject: "b", Data: []byte("4")})
	if diff := cmp.Diff([]string{"1", "2", "3", "4"}, bodies(t, w.await(4))); diff != "" {
		t.Error(diff)
	}
}

// TestTheInboxIsTrimmed of what is accepted.
func TestTheInboxIsTrimmed(t *testing.T) {
	w := newWorld(t)
	w.deploy(queue(functions.QueueTrigger{Subject: "in"}))
	for i := range 20 {
		w.send(bus.Outgoing{Subject: "in", Data: []byte(strconv.Itoa(i))})
	}
	v := w.joinAs(Config{TrimEvery: 20 * time.Millisecond}, func(conn *bus.Conn) Sources { return sources.New(sources.Config{}, conn, embedtest.Discard()) })
	defer v.leave(t)
	w.await(20)
	embedtest.Eventually(t, "the inbox is empty", func() bool {
		subjects, err := w.conn.Subjects(t.Context(), wire.StreamInbox, ">")
		return err == nil && len(subjects) == 0
	})
}

// TestAConsumerThatIsGoneIsMended: somebody removed it by hand.
func TestAConsumerThatIsGoneIsMended(t *testing.T) {
	w := newWorld(t)
	trigger := queue(functions.QueueTrigger{Subject: "a"})
	w.deploy(trigger)
	w.start()
	w.send(bus.Outgoing{Subject: "a", Data: []byte("1")})
	w.await(1)
	name := wire.TriggerConsumer(hello, trigger.ID())
	if err := w.conn.RemoveSource(t.Context(), wire.StreamInbox, name); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "it is made again", func() bool {
		found, err := w.conn.Sources(t.Context(), name)
		return err == nil && len(found) == 1
	})
	w.send(bus.Outgoing{Subject: "a", Data: []byte("2")})
	w.await(2)
}

func TestRemainder(t *testing.T) {
	record := func(id, count string) string {
		return `{"attributes":{"ApproximateReceiveCount":"` + count + `"},"body":"` + id + `","messageId":"` + id + `"}`
	}
	payload := `{"Records":[` + record("a", "1") + "," + record("b", "4") + "," + record("c", "1") + `]}`
	for result, test := range map[string]struct {
		rest   string
		failed int
	}{
		``:                            {},
		`null`:                        {},
		`"ok"`:                        {},
		`{"statusCode":200}`:          {},
		`{"batchItemFailures":null}`:  {},
		`{"batchItemFailures":[]}`:    {},
		`{"batchItemFailures":"all"}`: {},
		`{"batchItemFailures":[{"itemIdentifier":"b"}]}`:                          {`{"Records":[` + record("b", "5") + `]}`, 1},
		`{"batchItemFailures":[{"itemIdentifier":"c"},{"itemIdentifier":"a"}]}`:   {`{"Records":[` + record("a", "2") + "," + record("c", "2") + `]}`, 2},
		`{"batchItemFailures":[{"itemIdentifier":"b"},{"itemIdentifier":"b"}]}`:   {`{"Records":[` + record("b", "5") + `]}`, 1},
		`{"batchItemFailures":[{"itemIdentifier":"b"},{"itemIdentifier":"zzz"}]}`: {payload, 3},
		`{"batchItemFailures":[{}]}`:                                              {payload, 3},
	} {
		rest, failed, all, err := Remainder([]byte(payload), []byte(result))
		if err != nil || failed != test.failed || string(rest) != test.rest || failed > 0 && all != 3 {
			t.Errorf("%s: %d of %d, %v\n%s\n%s", result, failed, all, err, rest, test.rest)
		}
	}
	const report = `{"batchItemFailures":[{"itemIdentifier":"b"}]}`
	for _, payload := range []string{``, `{"Records":[{"messageId":7}]}`, `{"Records":[{}]}`} {
		if _, _, _, err := Remainder([]byte(payload), []byte(report)); err == nil || !strings.Contains(err.Error(), "malformed") {
			t.Errorf("%s: %v", payload, err)
		}
	}
}
