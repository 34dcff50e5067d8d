package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// server is the one S3 server of this process; set before any test runs.
var server *s3server.Server

func TestMain(m *testing.M) {
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { server = s }))
}

func open(t *testing.T) *blob.Store {
	t.Helper()
	store, err := blob.New(config("dayfly"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one that is there is kept
		if err := store.EnsureBucket(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func config(bucket string) blob.Config {
	return blob.Config{
		Endpoint: "http://embedded", Bucket: bucket, Region: s3server.Region,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey, Dial: server.Dial,
	}
}

func TestPutAndGet(t *testing.T) {
	ctx, store := t.Context(), open(t)
	if err := store.Healthy(ctx); err != nil {
		t.Error(err)
	}
	for key, want := range map[string][]byte{
		"empty":                nil,
		"code/abc":             []byte("v"),
		"outputs/a/files/ü ?#": []byte("odd key"),
		"payloads/large":       bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16), // over one part
	} {
		if err := store.Put(ctx, key, bytes.NewReader(want), int64(len(want)), "application/x-test"); err != nil {
			t.Fatal(err)
		}
		o, err := store.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o)
		if err != nil || !bytes.Equal(got, want) || o.Size != int64(len(want)) || o.ContentType != "application/x-test" {
			t.Errorf("%s: %d bytes of %d, type %s, %v", key, len(got), o.Size, o.ContentType, err)
		}
		o.Close()
		if found, err := store.Exists(ctx, key); !found || err != nil {
			t.Errorf("%s: exists %t, %v", key, found, err)
		}
		for range 2 { // one that is not there is no error
			if err := store.Delete(ctx, key); err != nil {
				t.Errorf("delete %s: %v", key, err)
			}
		}
		if found, err := store.Exists(ctx, key); found || err != nil {
			t.Errorf("%s: exists %t, %v", key, found, err)
		}
	}
}

func TestPutReplaces(t *testing.T) {
	store := open(t)
	for _, text := range []string{"old and long", "new"} {
		if err := store.PutBytes(t.Context(), "k", []byte(text), "text/plain"); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := store.GetBytes(t.Context(), "k", 3); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := store.GetBytes(t.Context(), "k", 2); err == nil || !strings.Contains(err.Error(), "3 bytes, at most 2") {
		t.Errorf("over the limit: %v", err)
	}
}

func TestNotFound(t *testing.T) {
	store := open(t)
	if _, err := store.Get(t.Context(), "nothing"); !errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error = %v", err)
	}
	if _, err := store.GetBytes(t.Context(), "nothing", 1); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("error = %v", err)
	}
}

func TestBucketIsMissing(t *testing.T) {
	store, err := blob.New(config("elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Healthy(t.Context()); err == nil || !strings.Contains(err.Error(), "elsewhere is gone") {
		t.Errorf("healthy: %v", err)
	}
	if err := store.PutBytes(t.Context(), "k", []byte("v"), "text/plain"); err == nil || !strings.Contains(err.Error(), "create the bucket") {
		t.Errorf("put: %v", err)
	}
}

// TestRefused: what S3 says no to does not pass by itself; that nobody answers may.
func TestRefused(t *testing.T) {
	wrong, nobody := config("dayfly"), config("dayfly")
	wrong.SecretKey = "wrongwrong"
	nobody.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	for name, test := range map[string]struct {
		cfg  blob.Config
		want bool
	}{"a wrong key": {wrong, true}, "no server": {nobody, false}} {
		store, err := blob.New(test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if !test.want { // it would be tried for seconds
			ctx, cancel = context.WithTimeout(ctx, time.Second)
			defer cancel()
		}
		err = store.EnsureBucket(ctx)
		if err == nil || blob.Refused(err) != test.want {
			t.Errorf("%s: refused is %t of %v", name, !test.want, err)
		}
	}
	if _, err := blob.New(config("No Bucket")); err == nil || !strings.Contains(err.Error(), "No Bucket") {
		t.Errorf("a name that no bucket has: %v", err)
	}
}

// TestPutOfLess: an upload that breaks off leaves no object.
func TestPutOfLess(t *testing.T) {
	store := open(t)
	for name, r := range map[string]io.Reader{
		"short":  io.MultiReader(strings.NewReader("four")),
		"broken": io.MultiReader(strings.NewReader("four"), iotest.ErrReader(errors.New("broken"))),
	} {
		if err := store.Put(t.Context(), "k/"+name, r, 10, "text/plain"); !errors.Is(err, blob.ErrSource) {
			t.Errorf("%s: error = %v, want ErrSource", name, err)
		}
		if found, err := store.Exists(t.Context(), "k/"+name); found || err != nil {
			t.Errorf("%s: exists %t, %v", name, found, err)
		}
	}
}

func TestContextEndsCalls(t *testing.T) {
	store := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if err := store.PutBytes(ctx, "k", []byte("v"), "text/plain"); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
}

func TestBadEndpoints(t *testing.T) {
	for _, endpoint := range []string{"", "localhost:9000", "http://", "s3://bucket", "http://host/path", "http://a b"} {
		if _, err := blob.New(blob.Config{Endpoint: endpoint}); err == nil || !strings.Contains(err.Error(), "http://host:port") {
			t.Errorf("New(%q): %v, want one that shows the form", endpoint, err)
		}
	}
}

// TestPutEmpty: an empty object leaves the connection as it should be, so that it
// serves those that come after it.
func TestPutEmpty(t *testing.T) {
	cfg := config("dayfly")
	dial, dialled := cfg.Dial, 0
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled++
		return dial(ctx, network, addr)
	}
	store, err := blob.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		key := fmt.Sprintf("empties/%d", i)
		nothing := io.LimitReader(strings.NewReader(""), 0)
		if i%2 == 0 {
			err = store.Put(t.Context(), key, nothing, 0, "text/plain")
		} else {
			err = store.PutStream(t.Context(), key, nothing, "text/plain")
		}
		if err != nil {
			t.Fatal(err)
		}
		if data, err := store.GetBytes(t.Context(), key, 10); err != nil || len(data) != 0 {
			t.Fatalf("empty object: %q, %v", data, err)
		}
	}
	if dialled > 2 {
		t.Errorf("%d connections for calls one after another", dialled)
	}
}

func TestPutStream(t *testing.T) {
	ctx, store := t.Context(), open(t)
	for _, size := range []int{0, 1, 8 << 20, 20<<20 + 1} {
		want := bytes.Repeat([]byte("x"), size)
		if err := store.PutStream(ctx, "streamed", struct{ io.Reader }{bytes.NewReader(want)}, "text/plain"); err != nil {
			t.Fatal(err)
		}
		if got, err := store.GetBytes(ctx, "streamed", 32<<20); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes, %v", len(got), size, err)
		}
	}
	for _, first := range []int{0, 10 << 20} {
		broken := io.MultiReader(bytes.NewReader(make([]byte, first)), iotest.ErrReader(errors.New("the line broke")))
		if err := store.PutStream(ctx, "broken", broken, "text/plain"); !errors.Is(err, blob.ErrSource) {
			t.Errorf("error %v", err)
		}
		if found, err := store.Exists(ctx, "broken"); err != nil || found {
			t.Errorf("there is an object: %t, %v", found, err)
		}
	}
}

func TestDeleteOlder(t *testing.T) {
	ctx, store := t.Context(), open(t)
	for _, key := range []string{"sweep/a/b/1", "sweep/a/2", "sweeper/3"} {
		if err := store.PutBytes(ctx, key, []byte("x"), "text/plain"); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.DeleteOlder(ctx, "sweep/", time.Now().Add(-time.Hour)); err != nil || n != 0 {
		t.Errorf("%d young ones removed, %v", n, err)
	}
	if n, err := store.DeleteOlder(ctx, "sweep/", time.Now().Add(time.Hour)); err != nil || n != 2 {
		t.Errorf("%d removed, %v", n, err)
	}
	if found, err := store.Exists(ctx, "sweeper/3"); err != nil || !found {
		t.Errorf("another prefix: %t, %v", found, err)
	}
}

// TestListEnds: a listing that is broken off leaves nothing running, which the end of all
// tests looks for, and one whose context ends is no whole one.
func TestListEnds(t *testing.T) {
	store := open(t)
	for n := range 5 {
		if err := store.PutBytes(t.Context(), fmt.Sprintf("list-ends/%d", n), nil, "text/plain"); err != nil {
			t.Fatal(err)
		}
	}
	enough := errors.New("enough")
	if err := store.List(t.Context(), "list-ends/", func(blob.Info) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.List(ctx, "list-ends/", func(blob.Info) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := store.DeleteOlder(ctx, "list-ends/", time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
