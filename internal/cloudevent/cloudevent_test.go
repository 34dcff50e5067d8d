package cloudevent

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const head = `{"specversion":"1.0","id":"7","source":"/shop","type":"order"`
	base := map[string]string{"specversion": "1.0", "id": "7", "source": "/shop", "type": "order"}
	with := func(extra map[string]string) map[string]string {
		all := maps.Clone(base)
		maps.Copy(all, extra)
		return all
	}
	for _, test := range []struct {
		document   string
		attributes map[string]string
		data       string
	}{
		{head + `}`, base, ""},
		{head + `,"data":null,"subject":null}`, base, ""},
		{head + `,"data":{"a": 1}}`, with(map[string]string{"datacontenttype": "application/json"}), `{"a": 1}`},
		{head + `,"data":"x","datacontenttype":"application/vnd.x+json"}`, with(map[string]string{"datacontenttype": "application/vnd.x+json"}), `"x"`},
		{head + `,"data":"x\n","datacontenttype":"text/plain; charset=utf-8"}`, with(map[string]string{"datacontenttype": "text/plain; charset=utf-8"}), "x\n"},
		{head + `,"data":[1],"datacontenttype":"text/plain"}`, with(map[string]string{"datacontenttype": "text/plain"}), "[1]"},
		{head + `,"data_base64":"AAE="}`, base, "\x00\x01"},
		{head + `,"time":"2026-05-01T12:00:00.5+09:00","number":-7,"flag":true}`, with(map[string]string{"time": "2026-05-01T12:00:00.5+09:00", "number": "-7", "flag": "true"}), ""},
	} {
		e, err := Parse([]byte(test.document))
		if err != nil {
			t.Errorf("%s: %v", test.document, err)
			continue
		}
		if diff := cmp.Diff(test.attributes, e.Attributes); diff != "" || string(e.Data) != test.data {
			t.Errorf("%s: %q %s", test.document, e.Data, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head = `{"specversion":"1.0","id":"7","source":"/shop","type":"order"`
	for document, want := range map[string]string{
		``:     "no JSON object",
		`[]`:   "no JSON object",
		`null`: "null is no event",
		`{}`:   `specversion is ""; only CloudEvents "1.0" are understood`,
		`{"specversion":"0.3","id":"7","source":"/shop","type":"order"}`: `specversion is "0.3"`,
		`{"specversion":"1.0","source":"/shop","type":"order"}`:          `attribute "id" is missing or empty`,
		`{"specversion":"1.0","id":"7","source":"","type":"order"}`:      `attribute "source" is missing or empty`,
		`{"specversion":"1.0","id":"7","source":"/shop"}`:                `attribute "type" is missing`,
		head + `,"data":1,"data_base64":"AA=="}`:                         "data and data_base64 exclude each other",
		head + `,"data_base64":"%"}`:                                     "data_base64 is no text in base64",
		head + `,"data_base64":7}`:                                       "data_base64 is no text in base64",
		head + `,"Upper":"x"}`:                                           `attribute "Upper": a name has lower-case letters and digits only`,
		head + `,"nested":{}}`:                                           `attribute "nested": it is neither text`,
		head + `,"fraction":1.5}`:                                        `1.5 is no integer`,
		head + `,"time":"today"}`:                                        `"today" is not of the form`,
		head + `,"datacontenttype":"a\nb"}`:                              `is no content type`,
		`{"specversion":"1.0","id":"7","source":"%zz","type":"order"}`:   `"%zz" is no URI reference`,
	} {
		if _, err := Parse([]byte(document)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", document, err)
		}
	}
}

func TestHeaders(t *testing.T) {
	if _, ok, err := FromHeaders(map[string][]string{"Content-Type": {"text/plain"}}, nil); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	e, ok, err := FromHeaders(map[string][]string{
		"Ce-Specversion": {"1.0"}, "CE-ID": {"a%20%C3%A9"}, "ce-source": {"/shop"}, "Ce-Type": {"order"}, "Content-Type": {"text/plain"}, "X-Other": {"1"},
	}, []byte("x"))
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	want := map[string]string{"specversion": "1.0", "id": "a é", "source": "/shop", "type": "order", "datacontenttype": "text/plain"}
	if diff := cmp.Diff(want, e.Attributes); diff != "" {
		t.Error(diff)
	}
	wantHeaders := map[string]string{"ce-specversion": "1.0", "ce-id": "a%20%C3%A9", "ce-source": "/shop", "ce-type": "order", "Content-Type": "text/plain"}
	if diff := cmp.Diff(wantHeaders, e.Headers()); diff != "" {
		t.Error(diff)
	}
	for _, headers := range []map[string][]string{
		{"ce-id": {"1"}},
		{"ce-specversion": {"1.0"}, "ce-id": {"%"}, "ce-source": {"/"}, "ce-type": {"x"}},
		{"ce-specversion": {"1.0"}, "ce-id": {"%FF"}, "ce-source": {"/"}, "ce-type": {"x"}},
		{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/"}, "ce-type": {"x"}, "ce-a-b": {"x"}},
	} {
		if _, ok, err := FromHeaders(headers, nil); !ok || err == nil {
			t.Errorf("%v: %t, %v", headers, ok, err)
		}
	}
}

func TestBatch(t *testing.T) {
	const one = `{"specversion":"1.0","id":"7","source":"/shop","type":"order"}`
	events, err := ParseBatch([]byte("[" + one + "," + one + "]"))
	if err != nil || len(events) != 2 || events[1].ID() != "7" || events[1].Source() != "/shop" {
		t.Errorf("%v, %v", events, err)
	}
	for document, want := range map[string]string{
		one:                 "this is no JSON list",
		"[" + one + ", {}]": "event 2: specversion",
		"[" + strings.Repeat("1,", MaxBatch) + "1]": "1001 events are too many",
	} {
		if _, err := ParseBatch([]byte(document)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", document, err)
		}
	}
	for kind, want := range map[string][2]bool{
		"application/cloudevents+json; charset=utf-8": {true, false},
		"application/cloudevents-batch+json":          {false, true},
		"application/json":                            {},
		";":                                           {},
	} {
		if got := [2]bool{IsStructured(kind), IsBatch(kind)}; got != want {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

// FuzzParse: what is read can be carried in headers, and comes out of them the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"specversion":"1.0","id":"7","source":"/shop","type":"order","data":{"a":1},"time":"2026-05-01T12:00:00Z"}`,
		`{"specversion":"1.0","id":"é \n%","source":"/","type":"\u0000","data_base64":"AAE=","n":1,"b":true}`,
		`{"specversion":"1.0","id":"7","source":"/","type":"t","data":"x","datacontenttype":"text/plain"}`, `{`, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		e, err := Parse(document)
		if err != nil {
			return
		}
		headers := map[string][]string{}
		for name, value := range e.Headers() {
			if strings.ContainsAny(value, "\r\n") {
				t.Fatalf("header %s: %q", name, value)
			}
			headers[name] = []string{value}
		}
		again, ok, err := FromHeaders(headers, e.Data)
		if !ok || err != nil {
			t.Fatalf("%q: %v", document, err)
		}
		// A content type that is empty says nothing.
		if e.Attributes[attributeContentType] == "" {
			delete(e.Attributes, attributeContentType)
		}
		if diff := cmp.Diff(e.Attributes, again.Attributes); diff != "" || !bytes.Equal(e.Data, again.Data) {
			t.Fatalf("%q: %s", document, diff)
		}
	})
}
