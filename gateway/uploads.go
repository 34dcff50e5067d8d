package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// maxParts is how many parts the largest bundle has.
const maxParts = (wire.MaxBundlePacked + wire.BundlePart - 1) / wire.BundlePart

// routeBundles adds what takes bundles in parts.
func (g *Gateway) routeBundles(api huma.API) {
	for _, raw := range []struct {
		op     huma.Operation
		handle rawHandler
	}{
		{rawOperation(http.MethodGet, "/v1/bundles/{digest}", "getBundle",
			"What is there of a bundle, by its SHA-256", "", "application/json", http.StatusOK), g.getBundle},
		{rawOperation(http.MethodPut, "/v1/bundles/{digest}/parts/{part}", "putBundlePart",
			fmt.Sprintf("Upload a part of a bundle, counted from 1: each has %d bytes but the last", wire.BundlePart),
			"application/octet-stream", "application/json", http.StatusOK), g.putBundlePart},
		{rawOperation(http.MethodPost, "/v1/bundles/{digest}", "completeBundle",
			"Put the parts of a bundle together: the body is {\"bytes\": its size}", "application/json", "application/json", http.StatusOK), g.completeBundle},
	} {
		api.OpenAPI().AddOperation(&raw.op)
		g.router.Method(raw.op.Method, raw.op.Path, raw.handle)
	}
}

// bundleState is what is there of a bundle.
type bundleState struct {
	// Bytes is the size of what is there.
	Bytes     int64 `json:"bytes"`
	PartBytes int64 `json:"partBytes"`
	// Parts are the numbers of those that are there; none once the bundle is complete.
	Parts    []int `json:"parts"`
	Complete bool  `json:"complete"`
}

func bundleParam(r *http.Request) (wire.Digest, error) {
	digest := wire.Digest(chi.URLParam(r, "digest"))
	if !digest.Valid() {
		return "", notADigest(digest)
	}
	return digest, nil
}

func (g *Gateway) getBundle(w http.ResponseWriter, r *http.Request) error {
	digest, err := bundleParam(r)
	if err != nil {
		return err
	}
	state, sizes, err := g.bundleState(r.Context(), digest)
	switch {
	case err != nil:
		return err
	case !state.Complete && len(sizes) == 0:
		return wire.Errorf(wire.CodeNotFound, "nothing is there of the bundle %s", digest)
	}
	return writeJSON(w, http.StatusOK, state)
}

// bundleState finds out what is there of a bundle, and the sizes of its parts.
func (g *Gateway) bundleState(ctx context.Context, digest wire.Digest) (bundleState, map[int]int64, error) {
	state, sizes := bundleState{PartBytes: wire.BundlePart, Parts: []int{}}, map[int]int64{}
	parts := strings.TrimSuffix(wire.BundlePartKey(digest, 0), "0")
	var whole int64
	err := g.deps.Store.List(ctx, wire.BundleFolder(digest), func(o blob.Info) error {
		if o.Key == wire.StoredBundleKey(digest) {
			state.Complete, whole = true, o.Bytes
			return nil
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(o.Key, parts)); err == nil {
			state.Parts = append(state.Parts, n)
			sizes[n] = o.Bytes
			state.Bytes += o.Bytes
		}
		return nil
	})
	if err != nil {
		return state, nil, wire.Errorf(wire.CodeUnavailable, "what is there of the bundle could not be found out: %s", err)
	}
	slices.Sort(state.Parts)
	if state.Complete {
		state.Bytes, state.Parts = whole, []int{}
	}
	return state, sizes, nil
}

// putBundlePart keeps a part. The same part may come again, and again in full only if
// all of it came.
func (g *Gateway) putBundlePart(w http.ResponseWriter, r *http.Request) error {
	digest, err := bundleParam(r)
	if err != nil {
		return err
	}
	part, err := strconv.Atoi(chi.URLParam(r, "part"))
	switch {
	case err != nil || part < 1 || part > maxParts:
		return wire.Errorf(wire.CodeInvalid, "part %.20q: a bundle has parts 1 to %d", chi.URLParam(r, "part"), maxParts)
	case r.ContentLength < 0:
		return wire.Errorf(wire.CodeInvalid, "send the part with a Content-Length")
	case r.ContentLength == 0:
		return wire.Errorf(wire.CodeInvalid, "part %d is empty", part)
	case r.ContentLength > wire.BundlePart:
		return wire.Errorf(wire.CodeTooLarge, "part %d has %d bytes; a part has at most %d", part, r.ContentLength, wire.BundlePart)
	}
	defer boundBody(w, uploadTimeout)()
	ctx, cancel := g.cuttable(r.Context())
	defer cancel()
	if err := g.deps.Store.Put(ctx, wire.BundlePartKey(digest, part), r.Body, r.ContentLength, "application/octet-stream"); err != nil {
		return bundleNotStored(err)
	}
	return writeJSON(w, http.StatusOK, struct {
		Part int `json:"part"`
	}{part})
}

// completeBundle makes one object of the parts, if they are what the digest says.
func (g *Gateway) completeBundle(w http.ResponseWriter, r *http.Request) error {
	digest, err := bundleParam(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	var asked struct {
		Bytes int64 `json:"bytes"`
	}
	switch err := json.Unmarshal(body, &asked); {
	case err != nil:
		return wire.Errorf(wire.CodeInvalid, "send the bundle's size as {\"bytes\": 12345}: %s", err)
	case asked.Bytes < 1:
		return wire.Errorf(wire.CodeInvalid, "bytes: %d is no size of a bundle", asked.Bytes)
	case asked.Bytes > wire.MaxBundlePacked:
		return bundleTooLarge()
	}
	ctx, cancel := g.cuttable(r.Context())
	defer cancel()
	if err := g.assemble(ctx, digest, asked.Bytes); err != nil {
		// Somebody else may have been quicker, and removed the parts since.
		if state, _, e := g.bundleState(ctx, digest); e != nil || !state.Complete {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, bundleState{Bytes: asked.Bytes, PartBytes: wire.BundlePart, Parts: []int{}, Complete: true})
}

// assemble reads the parts in order and writes the whole, unless that is there.
func (g *Gateway) assemble(ctx context.Context, digest wire.Digest, size int64) error {
	if err := g.keeper.Keep(ctx, wire.StoredBundleKey(digest)); err != nil {
		return err
	}
	state, sizes, err := g.bundleState(ctx, digest)
	if err != nil || state.Complete {
		return err
	}
	count := int((size + wire.BundlePart - 1) / wire.BundlePart)
	var missing []string
	for n := 1; n <= count; n++ {
		if sizes[n] != min(wire.BundlePart, size-int64(n-1)*wire.BundlePart) {
			missing = append(missing, strconv.Itoa(n))
		}
	}
	if len(missing) > 0 {
		return wire.Errorf(wire.CodeConflict, "of the bundle's %d parts these are missing or have the wrong size: %s; send them", count, strings.Join(missing, ", "))
	}
	parts := &partsReader{ctx: ctx, store: g.deps.Store, digest: digest, left: size, sum: sha256.New()}
	defer parts.close()
	err = g.deps.Store.Put(ctx, wire.StoredBundleKey(digest), parts, size, "application/octet-stream")
	switch {
	case errors.Is(err, errOtherBytes):
		// Which part is wrong cannot be known.
		g.removeParts(ctx, digest, sizes)
		return wire.Errorf(wire.CodeInvalid, "the parts do not make the bundle %s: they were damaged, or are another's; send them again", digest)
	case errors.Is(err, blob.ErrSource): // reading parts is S3's affair as well
		return wire.Errorf(wire.CodeUnavailable, "the bundle's parts could not be read: %s", err)
	case err != nil:
		return bundleNotStored(err)
	}
	g.removeParts(ctx, digest, sizes)
	return nil
}

// removeParts removes parts that are not needed any more, even when the request is over.
func (g *Gateway) removeParts(ctx context.Context, digest wire.Digest, sizes map[int]int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	for n := range sizes {
		if err := g.deps.Store.Delete(ctx, wire.BundlePartKey(digest, n)); err != nil {
			g.log.Warn("part of a bundle left behind", "key", wire.BundlePartKey(digest, n), telemetry.KeyError, err)
		}
	}
}

// errOtherBytes: the parts are there, but are not those of the bundle.
var errOtherBytes = errors.New("the digest is another one")

// partsReader reads a bundle from its parts. It does not give the last bytes away
// before it knows that the digest is right.
type partsReader struct {
	ctx    context.Context //nolint:containedctx // a reader has no other place for it
	store  *blob.Store
	digest wire.Digest
	left   int64
	sum    hash.Hash
	part   int
	open   *blob.Object // nil between parts
}

func (p *partsReader) Read(buffer []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	if p.open == nil {
		var err error
		p.part++
		if p.open, err = p.store.Get(p.ctx, wire.BundlePartKey(p.digest, p.part)); err != nil {
			return 0, err
		}
	}
	n, err := p.open.Read(buffer[:min(int64(len(buffer)), p.left)])
	_, _ = p.sum.Write(buffer[:n]) // it never fails
	p.left -= int64(n)
	if errors.Is(err, io.EOF) {
		p.close()
		p.open, err = nil, nil
	}
	if p.left == 0 && hex.EncodeToString(p.sum.Sum(nil)) != string(p.digest) {
		return 0, errOtherBytes
	}
	return n, err
}

func (p *partsReader) close() {
	if p.open != nil {
		_ = p.open.Close() // it was only read
	}
}
