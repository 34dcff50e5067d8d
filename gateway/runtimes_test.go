package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// rebuilder starts a double that makes roots.
func (w *world) rebuilder(answer func(req wire.RebuildRequest) wire.RebuildReply) {
	w.t.Helper()
	_, err := w.conn.Subscribe(wire.RebuildSubject, wire.BuildGroup, func(m bus.Msg) {
		var req wire.RebuildRequest
		err := json.Unmarshal(m.Data, &req)
		if err == nil {
			var data []byte
			if data, err = json.Marshal(answer(req)); err == nil {
				err = m.Respond(data)
			}
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestListRuntimes: what is stored is listed, and what is not yet.
func TestListRuntimes(t *testing.T) {
	w := newWorld(t)
	python, _ := runtimes.Lookup("python")
	recipe := wire.Digest(strings.Repeat("0a", 32))
	bucket, err := w.conn.Bucket(t.Context(), bus.BucketConfig{Name: wire.BucketRoots})
	if err != nil {
		t.Fatal(err)
	}
	// One of this release, and one of another.
	for _, root := range []wire.Root{
		{Name: "python", Arch: "amd64", Recipe: python.RootDigest(), Digest: recipe, Bytes: 12, BuiltAt: time.Unix(1000, 0), Revision: 1, Source: wire.SourcePackages},
		{Name: "python", Arch: "amd64", Recipe: recipe, Digest: recipe, Bytes: 11, BuiltAt: time.Unix(900, 0), Revision: 1, Source: wire.SourceImage},
	} {
		data, err := json.Marshal(root)
		if err == nil {
			_, err = bucket.Create(t.Context(), wire.RootKey(root.Name, root.Arch, root.Recipe), data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := decode[struct{ Roots []wire.RuntimeRoot }](t, w.ask(http.MethodGet, "/v1/runtimes", nil), 200)
	users := map[string]string{}
	for _, r := range got.Roots {
		users[r.Name+" "+string(r.Digest)+" "+string(r.Source)] = strings.Join(r.Runtimes, ",")
	}
	want := map[string]string{
		"python " + string(recipe) + " packages": "python", "python " + string(recipe) + " image": "",
		"base  ": "go,provided", "node  ": "node",
	}
	for name, runtimes := range want {
		if is, ok := users[name]; !ok || is != runtimes {
			t.Errorf("%q is used by %q (listed: %t), want %q", name, is, ok, runtimes)
		}
	}
	if len(users) != len(want) {
		t.Errorf("listed are %v", users)
	}
}

func TestRebuildRuntime(t *testing.T) {
	w := newWorld(t)
	var asked wire.RebuildRequest
	w.rebuilder(func(req wire.RebuildRequest) wire.RebuildReply {
		asked = req
		if req.Archive != "" {
			if data, err := w.store.GetBytes(t.Context(), req.Archive, 100); err != nil || string(data) != "an archive" {
				t.Errorf("the builder found %q, %v", data, err)
			}
		}
		return wire.RebuildReply{Root: &wire.Root{Name: req.Root, Digest: "d1"}, Log: "fine\n"}
	})
	// By a runtime's name, and by the root's own.
	for name, root := range map[string]string{"go": "base", "base": "base", "python": "python"} {
		got := decode[rebuilt](t, w.ask(http.MethodPost, "/v1/runtimes/"+name+"/rebuild", nil), 200)
		if asked.Root != root || asked.Archive != "" || asked.ID == "" || got.Root.Name != root || got.Root.Digest != "d1" || got.Log != "fine\n" {
			t.Errorf("%s: asked for %+v, got %+v", name, asked, got)
		}
	}
	decode[rebuilt](t, w.ask(http.MethodPost, "/v1/runtimes/node/rebuild", strings.NewReader("an archive")), 200)
	if asked.Archive == "" {
		t.Error("the archive was not passed on")
	}
	w.wantNoBundle(asked.Archive)
}

func TestRebuildRefused(t *testing.T) {
	w := newWorld(t)
	wantProblem(t, w.ask(http.MethodPost, "/v1/runtimes/python/rebuild", nil), 503, wire.CodeUnavailable, "no builder is connected")
	wantProblem(t, w.ask(http.MethodPost, "/v1/runtimes/cobol/rebuild", nil), 404, wire.CodeNotFound, `no runtime "cobol"`)
	wantProblem(t, w.ask(http.MethodPost, "/v1/runtimes/python/rebuild", strings.NewReader("x"), func(r *http.Request) {
		r.ContentLength = wire.MaxImageArchive + 1
	}), 413, wire.CodeTooLarge, "2048 MiB")
	w.rebuilder(func(wire.RebuildRequest) wire.RebuildReply {
		return wire.RebuildReply{Error: wire.Errorf(wire.CodeInvalid, "no mirror answers")}
	})
	wantProblem(t, w.ask(http.MethodPost, "/v1/runtimes/python/rebuild", nil), 400, wire.CodeInvalid, "no mirror answers")
}
