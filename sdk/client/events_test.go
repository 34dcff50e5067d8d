package client_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

func TestPublish(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "hello" {
			t.Errorf("body %q, error %v", body, err)
		}
		if got, want := r.Method+" "+r.RequestURI, "POST /v1/events/orders.created"; got != want {
			t.Errorf("the server got %s, want %s", got, want)
		}
		for name, want := range map[string]string{"Content-Type": "text/plain", wire.HeaderKey: "k", wire.HeaderIdempotencyKey: "once"} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte(`{"accepted":3}`))
	})
	n, err := c.Publish(t.Context(), "orders.created", client.Message{Data: []byte("hello"), ContentType: "text/plain", Key: "k", Once: "once"})
	if err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestPublishFails(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if kind := r.Header.Get("Content-Type"); kind != "application/octet-stream" {
			t.Errorf("content type %q", kind)
		}
		writeProblem(w, wire.Errorf(wire.CodeNotFound, "no trigger listens to x"), "")
	})
	if _, err := c.Publish(t.Context(), "x", client.Message{}); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("%v", err)
	}
	for _, subject := range []string{"", "a.*", "a b", ">"} {
		if _, err := c.Publish(t.Context(), subject, client.Message{}); !wire.HasCode(err, wire.CodeInvalid) {
			t.Errorf("%q: %v", subject, err)
		}
	}
}
