package client_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

func TestDeploy(t *testing.T) {
	content := bytes.Repeat([]byte("bundle "), 1<<16)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(body, content) {
			t.Errorf("%d bytes, error %v", len(body), err)
		}
		if got, want := r.Method+" "+r.RequestURI, "POST /v1/functions?namespace=default"; got != want {
			t.Errorf("the server got %s, want %s", got, want)
		}
		if r.ContentLength != int64(len(content)) || r.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("Content-Length %d, Content-Type %s", r.ContentLength, r.Header.Get("Content-Type"))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"function":{"name":"x","latest":2},"version":{"number":2,"code":"c0de"},"url":"http://h/f/x","buildLog":"ok\n"}`)
	})
	bundle := bytes.NewReader(content)
	// Wherever the reader stands, the whole bundle is sent.
	if _, err := bundle.Seek(17, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, err := c.Deploy(t.Context(), "", bundle)
	if err != nil {
		t.Fatal(err)
	}
	if got.Function.Name != "x" || got.Version.Number != 2 || got.URL != "http://h/f/x" || got.BuildLog != "ok\n" {
		t.Errorf("deployment %+v", got)
	}
}

// TestRefusedDeployIsNotSent: a server that refuses by the head of the request
// is heard, and the bundle stays where it is.
func TestRefusedDeployIsNotSent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, wire.Errorf(wire.CodeTooLarge, "the disk is full"), "")
	})
	bundle := &countingReader{Reader: bytes.NewReader(make([]byte, 1<<20))}
	_, err := c.Deploy(t.Context(), "", bundle)
	if !wire.HasCode(err, wire.CodeTooLarge) {
		t.Errorf("error = %v", err)
	}
	if bundle.reads != 0 {
		t.Errorf("%d reads of a bundle that nobody wanted", bundle.reads)
	}
}

type countingReader struct {
	*bytes.Reader
	reads int
}

func (c *countingReader) Read(p []byte) (int, error) {
	c.reads++
	return c.Reader.Read(p)
}

// WriteTo would pass Read by.
func (c *countingReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

// sized claims a size.
type sized struct {
	io.Reader
	bytes int64
	err   error
}

func (s sized) Seek(int64, int) (int64, error) { return s.bytes, s.err }

func TestDeployMeasuresFirst(t *testing.T) {
	c := newClient(t, "http://host")
	if _, err := c.Deploy(t.Context(), "", sized{strings.NewReader(""), wire.MaxBundlePacked + 1, nil}); !wire.HasCode(err, wire.CodeTooLarge) {
		t.Errorf("too large: %v", err)
	}
	broken := errors.New("bad disk")
	if _, err := c.Deploy(t.Context(), "", sized{strings.NewReader(""), 0, broken}); !errors.Is(err, broken) {
		t.Errorf("broken: %v", err)
	}
}
