package sandboxtest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

// ownRoot makes a root of the test's own, without a shell: only mount points.
func (h *harness) ownRoot() sandbox.Root {
	h.Helper()
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, name := range []string{"probe", "out", "tmp", "mnt", "mnt/output", "proc", "sys", "dev", "etc"} {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}); err != nil {
			h.Fatal(err)
		}
	}
	// A text of its own makes it another root than that of any other test.
	text := rand.Text()
	err := archive.WriteHeader(&tar.Header{Name: "etc/text", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(archive, text)
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		h.Fatal(err)
	}
	sum := sha256.Sum256(content.Bytes())
	return sandbox.Root{Name: "conformance", Digest: wire.Digest(hex.EncodeToString(sum[:])), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}}
}

// testRoots follows a root from its first use to its end.
func testRoots(h *harness) {
	root := h.ownRoot()
	listed := func() bool {
		h.Helper()
		roots, err := h.Roots(h.ctx)
		if err != nil {
			h.Fatal(err)
		}
		return slices.ContainsFunc(roots, func(r sandbox.StoredRoot) bool { return r.Name == root.Name && r.Digest == root.Digest })
	}
	spec := h.spec(Wait())
	spec.Root = root
	if _, err := h.Start(h.ctx, spec); !errors.Is(err, sandbox.ErrNoRoot) {
		h.Errorf("Start on a root that is not there says %v", err)
	}
	if listed() {
		h.Error("it is listed before it is there")
	}
	if err := h.EnsureRoot(h.ctx, root); err != nil {
		h.Fatal(err)
	}
	if !listed() {
		h.Error("it is not listed")
	}
	c := h.start(spec)
	if err := h.RemoveRoot(h.ctx, root); !errors.Is(err, sandbox.ErrRootInUse) {
		h.Errorf("removing it under a container says %v", err)
	}
	if err := c.Remove(h.ctx); err != nil {
		h.Fatal(err)
	}
	// A program that somebody starts holds our files until it has its own, locks too.
	err := h.RemoveRoot(h.ctx, root)
	for late := time.After(30 * time.Second); errors.Is(err, sandbox.ErrRootInUse); err = h.RemoveRoot(h.ctx, root) {
		select {
		case <-late:
			h.Fatal("removing it:", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err != nil {
		h.Error("removing it:", err)
	}
	if err := h.RemoveRoot(h.ctx, root); err != nil {
		h.Error("removing it when it is not there:", err)
	}
	if listed() {
		h.Error("it is listed after its end")
	}
	if _, err := h.Start(h.ctx, spec); !errors.Is(err, sandbox.ErrNoRoot) {
		h.Errorf("Start on a root that was removed says %v", err)
	}
}
