package gateway

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data) // never fails, and never the same: all tests share the S3 server
	return data
}

func digestOf(data []byte) wire.Digest {
	sum := sha256.Sum256(data)
	return wire.Digest(hex.EncodeToString(sum[:]))
}

// keys lists what S3 has under a prefix.
func (w *world) keys(prefix string) []string {
	w.t.Helper()
	keys := []string{}
	if err := w.store.List(w.t.Context(), prefix, func(o blob.Info) error { keys = append(keys, o.Key); return nil }); err != nil {
		w.t.Fatal(err)
	}
	return keys
}

func (w *world) putPart(digest wire.Digest, part int, data []byte) *httptest.ResponseRecorder {
	return w.ask(http.MethodPut, fmt.Sprintf("/v1/bundles/%s/parts/%d", digest, part), bytes.NewReader(data))
}

func (w *world) complete(digest wire.Digest, size int) *httptest.ResponseRecorder {
	return w.ask(http.MethodPost, "/v1/bundles/"+string(digest), strings.NewReader(fmt.Sprintf(`{"bytes":%d}`, size)))
}

// TestBundlesInParts: parts in any order and more than once make the bundle, and are
// gone then.
func TestBundlesInParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	content := noise(wire.BundlePart*2 + 2000)
	digest := digestOf(content)
	folder := wire.BundleFolder(digest)
	part := func(n int) []byte { return content[(n-1)*wire.BundlePart : min(n*wire.BundlePart, len(content))] }
	wantProblem(t, w.ask(http.MethodGet, "/v1/bundles/"+string(digest), nil), 404, wire.CodeNotFound, "nothing is there of the bundle "+string(digest))
	wantProblem(t, w.complete(digest, len(content)), 409, wire.CodeConflict, "of the bundle's 3 parts these are missing or have the wrong size: 1, 2, 3")
	for _, n := range []int{3, 1, 3} {
		decode[struct{}](t, w.putPart(digest, n, part(n)), 200)
	}
	state := decode[bundleState](t, w.ask(http.MethodGet, "/v1/bundles/"+string(digest), nil), 200)
	if state.Complete || !slices.Equal(state.Parts, []int{1, 3}) || state.PartBytes != wire.BundlePart || state.Bytes != wire.BundlePart+2000 {
		t.Errorf("state %+v", state)
	}
	// A part that broke off earlier is shorter.
	decode[struct{}](t, w.putPart(digest, 2, part(2)[:100]), 200)
	wantProblem(t, w.complete(digest, len(content)), 409, wire.CodeConflict, "wrong size: 2; send them")
	decode[struct{}](t, w.putPart(digest, 2, part(2)), 200)
	for range 2 { // again: it is there
		if state = decode[bundleState](t, w.complete(digest, len(content)), 200); !state.Complete {
			t.Errorf("state %+v", state)
		}
	}
	state = decode[bundleState](t, w.ask(http.MethodGet, "/v1/bundles/"+string(digest), nil), 200)
	if !state.Complete || len(state.Parts) != 0 || state.Bytes != int64(len(content)) {
		t.Errorf("state %+v", state)
	}
	if keys := w.keys(folder); !slices.Equal(keys, []string{wire.StoredBundleKey(digest)}) {
		t.Errorf("S3 has %q", keys)
	}
	stored, err := w.store.GetBytes(t.Context(), wire.StoredBundleKey(digest), 1<<30)
	if err != nil || !bytes.Equal(stored, content) {
		t.Errorf("%d bytes, %v", len(stored), err)
	}
}

// TestBundleOfOthersParts: parts that are not what the digest says never become a
// bundle, and are gone so that it can be sent anew.
func TestBundleOfOthersParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	content := noise(wire.BundlePart + 100_000)
	digest := digestOf(content)
	damaged := bytes.Clone(content)
	damaged[len(damaged)-1] ^= 1
	decode[struct{}](t, w.putPart(digest, 1, damaged[:wire.BundlePart]), 200)
	decode[struct{}](t, w.putPart(digest, 2, damaged[wire.BundlePart:]), 200)
	wantProblem(t, w.complete(digest, len(content)), 400, wire.CodeInvalid, "the parts do not make the bundle")
	if keys := w.keys(wire.BundleFolder(digest)); len(keys) > 0 {
		t.Errorf("S3 has %q", keys)
	}
}

// TestBundleCompletedByManyAtOnce: all are told that it is there.
func TestBundleCompletedByManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	content := noise(wire.BundlePart + 5)
	digest := digestOf(content)
	decode[struct{}](t, w.putPart(digest, 1, content[:wire.BundlePart]), 200)
	decode[struct{}](t, w.putPart(digest, 2, content[wire.BundlePart:]), 200)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if got := w.complete(digest, len(content)); got.Code != 200 {
				t.Errorf("status %d: %s", got.Code, got.Body)
			}
		})
	}
	all.Wait()
}

func TestBundleRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	digest := string(digestOf(nil))
	chunked := func(r *http.Request) { r.ContentLength = -1 }
	for name, test := range map[string]struct {
		method, target, body string
		edit                 func(*http.Request)
		status               int
		code                 wire.Code
		text                 string
	}{
		"no digest":           {http.MethodGet, "/v1/bundles/latest", "", nil, 400, wire.CodeInvalid, `"latest" is not a digest`},
		"capital digits":      {http.MethodPut, "/v1/bundles/" + strings.ToUpper(digest) + "/parts/1", "x", nil, 400, wire.CodeInvalid, "lower-case"},
		"part 0":              {http.MethodPut, "/v1/bundles/" + digest + "/parts/0", "x", nil, 400, wire.CodeInvalid, `part "0": a bundle has parts 1 to 13`},
		"part 14":             {http.MethodPut, "/v1/bundles/" + digest + "/parts/14", "x", nil, 400, wire.CodeInvalid, "parts 1 to 13"},
		"part one":            {http.MethodPut, "/v1/bundles/" + digest + "/parts/one", "x", nil, 400, wire.CodeInvalid, "parts 1 to 13"},
		"empty part":          {http.MethodPut, "/v1/bundles/" + digest + "/parts/1", "", nil, 400, wire.CodeInvalid, "part 1 is empty"},
		"part without length": {http.MethodPut, "/v1/bundles/" + digest + "/parts/1", "x", chunked, 400, wire.CodeInvalid, "Content-Length"},
		"part too large": {http.MethodPut, "/v1/bundles/" + digest + "/parts/1", "x", func(r *http.Request) { r.ContentLength = wire.BundlePart + 1 },
			413, wire.CodeTooLarge, "a part has at most 8388608"},
		"complete without size":     {http.MethodPost, "/v1/bundles/" + digest, "{}", nil, 400, wire.CodeInvalid, "0 is no size"},
		"complete with other words": {http.MethodPost, "/v1/bundles/" + digest, "hello", nil, 400, wire.CodeInvalid, `{"bytes": 12345}`},
		"complete too large":        {http.MethodPost, "/v1/bundles/" + digest, `{"bytes":104857601}`, nil, 413, wire.CodeTooLarge, "over 104857600 bytes"},
		"deploy of nothing":         {http.MethodPost, "/v1/functions?bundle=" + digest, "", nil, 404, wire.CodeNotFound, "there is no bundle " + digest},
		"deploy of no digest":       {http.MethodPost, "/v1/functions?bundle=../x", "", nil, 400, wire.CodeInvalid, `"../x" is not a digest`},
		"deploy of two":             {http.MethodPost, "/v1/functions?bundle=" + digest, "bytes", nil, 400, wire.CodeInvalid, "not both"},
	} {
		var body io.Reader = http.NoBody
		if test.body != "" {
			body = strings.NewReader(test.body)
		}
		edit := test.edit
		if edit == nil {
			edit = func(*http.Request) {}
		}
		t.Run(name, func(t *testing.T) {
			wantProblem(t, w.ask(test.method, test.target, body, edit), test.status, test.code, test.text)
		})
	}
	if keys := w.keys(wire.BundleFolder(wire.Digest(digest))); len(keys) > 0 {
		t.Errorf("S3 has %q", keys)
	}
}

// TestBundleOfADeploy: a body of any size and a name lead to the same object, and an
// upload that breaks off leaves nothing.
func TestBundleOfADeploy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{1000, wire.BundlePart + 1} {
		content := noise(size)
		digest := digestOf(content)
		for _, body := range []io.Reader{bytes.NewReader(content), bytes.NewReader(content), nil} {
			target := "/v1/functions"
			if body == nil {
				target += "?bundle=" + string(digest)
			}
			key, got, err := w.bundleOf(t.Context(), httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, target, body))
			if err != nil || got != digest || key != wire.StoredBundleKey(digest) {
				t.Fatalf("%d bytes: %s, %s, %v", size, key, got, err)
			}
		}
		stored, err := w.store.GetBytes(t.Context(), wire.StoredBundleKey(digest), 1<<30)
		if err != nil || !bytes.Equal(stored, content) {
			t.Errorf("%d of %d bytes, %v", len(stored), size, err)
		}
		if err := w.store.Delete(t.Context(), wire.StoredBundleKey(digest)); err != nil {
			t.Fatal(err)
		}
		broken := httptest.NewRequest(http.MethodPost, "/v1/functions", io.MultiReader(bytes.NewReader(content[:size/2]), brokenReader{}))
		broken.ContentLength = int64(size)
		if _, _, err := w.bundleOf(t.Context(), httptest.NewRecorder(), broken); !wire.HasCode(err, wire.CodeInvalid) {
			t.Errorf("broken off: %v", err)
		}
		if keys := w.keys(wire.BundleFolder(digest)); len(keys) > 0 {
			t.Errorf("S3 has %q", keys)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the client went") }
