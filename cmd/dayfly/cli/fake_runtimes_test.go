package cli_test

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// root is a root that was made some time ago. The caller holds mu.
func (f *fakeAPI) root(name string, source wire.RootSource, users ...string) wire.RuntimeRoot {
	return wire.RuntimeRoot{Runtimes: users, Root: wire.Root{
		Name: name, Arch: "amd64", Recipe: wire.Digest(strings.Repeat("ab", 32)), Digest: wire.Digest(strings.Repeat("cd", 32)),
		Bytes: 21 << 20, BuiltAt: f.ago(3 * time.Hour), Revision: 2, Source: source,
	}}
}

func (f *fakeAPI) runtimes(w http.ResponseWriter, _ *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	missing := wire.RuntimeRoot{Root: wire.Root{Name: "node", Arch: "amd64", Recipe: wire.Digest(strings.Repeat("ef", 32))}, Runtimes: []string{"node"}}
	return answer(w, http.StatusOK, map[string]any{"roots": []wire.RuntimeRoot{
		f.root("base", wire.SourcePackages, "go", "provided"), f.root("python", wire.SourceImage), missing,
	}})
}

func (f *fakeAPI) rebuild(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if name == "cobol" {
		return wire.Errorf(wire.CodeNotFound, "there is no runtime cobol")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || int64(len(body)) != r.ContentLength {
		return f.violation("a body of %d bytes with Content-Length %d: %v", len(body), r.ContentLength, err)
	}
	source := wire.SourcePackages
	if len(body) > 0 {
		source = wire.SourceImage
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return answer(w, http.StatusOK, client.Rebuilt{Root: f.root(name, source, name), Log: "unpacking\n"})
}
