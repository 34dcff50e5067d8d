package cli_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// deployed reads the manifest of the bundle that a deploy sends or names.
func (f *fakeAPI) deployed(r *http.Request, query url.Values) (functions.Manifest, error) {
	if !query.Has("bundle") {
		if r.Header.Get("Content-Type") != "application/octet-stream" || r.ContentLength <= 0 || r.ContentLength > 1<<20 {
			return functions.Manifest{}, fmt.Errorf("Content-Type %q, Content-Length %d", r.Header.Get("Content-Type"), r.ContentLength)
		}
		return manifestOf(r.Body)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return manifestOf(bytes.NewReader(f.bundles[query.Get("bundle")]))
}

// answerDeploy tells of the build as it goes, to who wants that.
func answerDeploy(w http.ResponseWriter, r *http.Request, d client.Deployment) error {
	if r.Header.Get("Accept") != "application/x-ndjson" {
		return answer(w, http.StatusCreated, d)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder := json.NewEncoder(w)
	if err := encoder.Encode(map[string]string{"log": d.BuildLog}); err != nil {
		return err
	}
	return encoder.Encode(map[string]client.Deployment{"deployment": d})
}

func (f *fakeAPI) bundle(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	whole, there := f.bundles[r.PathValue("digest")]
	if !there {
		return wire.Errorf(wire.CodeNotFound, "nothing is there of it")
	}
	return answer(w, http.StatusOK, map[string]any{"bytes": len(whole), "partBytes": wire.BundlePart, "parts": []int{}, "complete": true})
}

func (f *fakeAPI) bundlePart(w http.ResponseWriter, r *http.Request) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return f.violation("part: %s", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, again := f.bundles[r.PathValue("digest")]; again {
		return f.violation("a part of a bundle that is complete")
	}
	f.parts[r.PathValue("digest")+"/"+r.PathValue("part")] = data
	return answer(w, http.StatusOK, map[string]string{"part": r.PathValue("part")})
}

func (f *fakeAPI) completeBundle(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	digest := r.PathValue("digest")
	var whole []byte
	for n := 1; f.parts[digest+"/"+strconv.Itoa(n)] != nil; n++ {
		whole = append(whole, f.parts[digest+"/"+strconv.Itoa(n)]...)
	}
	var asked struct {
		Bytes int `json:"bytes"`
	}
	sum := sha256.Sum256(whole)
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Bytes != len(whole) || hex.EncodeToString(sum[:]) != digest {
		return f.violation("complete %s: %d bytes asked, %d there, %v", digest, asked.Bytes, len(whole), err)
	}
	f.bundles[digest] = whole
	return answer(w, http.StatusOK, map[string]any{"complete": true})
}
