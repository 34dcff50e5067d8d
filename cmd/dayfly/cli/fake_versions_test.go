package cli_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// gallery is the function whose versions the scripts move: 5 to 8, of which 7 is live
// and 6 was before; 8 does not start.
var gallery = wire.FunctionID{Namespace: "default", Name: "gallery"}

func newGallery() functions.Function {
	return functions.Function{
		FunctionID: gallery, Versions: []int{5, 6, 7, 8}, Latest: 8, Previous: 6, Decided: 7,
		Aliases:   map[string]functions.Alias{"live": {Version: 7}, "prod": {Version: 5, Weights: map[int]int{6: 25}}},
		CreatedAt: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), UpdatedAt: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
	}
}

func (f *fakeAPI) galleryRoutes() map[string]func(http.ResponseWriter, *http.Request) error {
	g := newGallery()
	// locked runs a handler that may use g.
	locked := func(handle func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			return handle(w, r)
		}
	}
	starts := func(a functions.Alias) error {
		for _, number := range a.Versions() {
			if number == 8 {
				return &wire.Error{Code: wire.CodeFunctionError, Message: "version 8 of gallery does not start, so live stays where it is: no module named x", Logs: "loading\n"}
			}
		}
		return nil
	}
	routes := map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/functions/gallery/versions": locked(func(w http.ResponseWriter, _ *http.Request) error {
			list := []client.ListedVersion{}
			for i := len(g.Versions) - 1; i >= 0; i-- {
				v := client.ListedVersion{Version: f.galleryVersion(g.Versions[i]), Aliases: []client.VersionAlias{}}
				for _, name := range []string{"live", "next", "prod"} {
					if a, ok := g.Aliases[name]; ok && a.Percent(v.Number) > 0 {
						v.Aliases = append(v.Aliases, client.VersionAlias{Name: name, Percent: a.Percent(v.Number)})
					}
				}
				list = append(list, v)
			}
			return answer(w, http.StatusOK, map[string]any{"versions": list})
		}),
		"GET /v1/functions/gallery/aliases": locked(func(w http.ResponseWriter, _ *http.Request) error {
			return answer(w, http.StatusOK, map[string]any{"aliases": g.Aliases})
		}),
		"PUT /v1/functions/gallery/aliases/{alias}": locked(func(w http.ResponseWriter, r *http.Request) error {
			var a functions.Alias
			if err := json.NewDecoder(r.Body).Decode(&a); err != nil || r.Header.Get("Content-Type") != "application/json" {
				return f.violation("alias: %v, %v", err, r.Header)
			}
			if r.PathValue("alias") == "live" {
				if err := starts(a); err != nil {
					return err
				}
			}
			if err := g.SetAlias(r.PathValue("alias"), a, g.UpdatedAt); err != nil {
				return err
			}
			return answer(w, http.StatusOK, map[string]any{"function": g})
		}),
		"DELETE /v1/functions/gallery/aliases/{alias}": locked(func(w http.ResponseWriter, r *http.Request) error {
			if err := g.RemoveAlias(r.PathValue("alias"), g.UpdatedAt); err != nil {
				return err
			}
			w.WriteHeader(http.StatusNoContent)
			return nil
		}),
		"POST /v1/functions/gallery/rollback": locked(func(w http.ResponseWriter, r *http.Request) error {
			var question struct{ To int }
			if err := json.NewDecoder(r.Body).Decode(&question); err != nil {
				return f.violation("rollback: %s", err)
			}
			from, to, err := g.Rollback(question.To, g.UpdatedAt)
			if err != nil {
				return err
			}
			return answer(w, http.StatusOK, client.RolledBack{From: from, To: to, Function: g})
		}),
		"GET /v1/functions/{ref}/versions": locked(func(_ http.ResponseWriter, r *http.Request) error {
			_, ref, err := f.find(r)
			if err == nil {
				err = f.violation("the versions of %s", ref)
			}
			return err
		}),
		"POST /v1/functions/hello.team-a/rollback": func(http.ResponseWriter, *http.Request) error {
			return wire.Errorf(wire.CodeConflict, "nothing of function hello.team-a was live before version 1")
		},
	}
	for _, qualifier := range []string{"", ":5", ":6", ":7", ":8", ":9"} {
		routes["GET /v1/functions/gallery"+qualifier] = locked(func(w http.ResponseWriter, _ *http.Request) error {
			number, err := g.Resolve(cmp.Or(strings.TrimPrefix(qualifier, ":"), "live"), functions.MainDraw)
			if err != nil {
				return err
			}
			return answer(w, http.StatusOK, client.Resolved{Function: g, Version: f.galleryVersion(number)})
		})
		number := strings.TrimPrefix(qualifier, ":")
		routes["GET /v1/functions/gallery"+qualifier+"/code"] = func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/gzip")
			_, err := w.Write(galleryCode(number))
			return err
		}
	}
	return routes
}

// galleryVersion is a version of gallery; 5 and 6 run the same code. The caller holds mu.
func (f *fakeAPI) galleryVersion(number int) functions.Version {
	spec := functions.Spec{Runtime: "python", Handler: "app.handler", MemoryBytes: 128 << 20, MaxInstances: 50}
	if number >= 6 {
		spec.MemoryBytes, spec.Env = 256<<20, map[string]string{"SIZE": "128"}
	}
	v := f.version(gallery, number, spec)
	if number >= 7 {
		v.Code = wire.Digest(strings.Repeat("beef", 16))
	}
	return v
}

// galleryCode is the artifact of a version.
func galleryCode(number string) []byte {
	files := map[string]string{"app.py": "def handler(event, context): return 1\n", "old.txt": "old"}
	if number == "7" {
		files = map[string]string{"app.py": "def handler(event, context): return 22\n", "lib/new.py": "x = 1\n"}
	}
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	archive := tar.NewWriter(compressed)
	for _, name := range []string{"app.py", "lib/new.py", "old.txt"} {
		if text, ok := files[name]; ok {
			if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
				return []byte(fmt.Sprint(err)) // which no reader takes for an artifact
			}
			_, _ = archive.Write([]byte(text)) // into memory
		}
	}
	_ = archive.Close()
	_ = compressed.Close()
	return packed.Bytes()
}
