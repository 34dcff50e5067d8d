package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

// bundleOf returns the key in S3 and the digest of the bundle that a deploy is about:
// the one in its body, or the one that its query names, which was uploaded before.
// Bundles stay until they are collected.
func (g *Gateway) bundleOf(ctx context.Context, w http.ResponseWriter, r *http.Request) (key string, digest wire.Digest, err error) {
	named := r.URL.Query().Has("bundle")
	switch {
	case named && r.ContentLength != 0:
		return "", "", wire.Errorf(wire.CodeInvalid, "send the bundle, or name one with bundle=, not both")
	case named:
		digest = wire.Digest(r.URL.Query().Get("bundle"))
		err = g.requireBundle(ctx, digest)
	case r.ContentLength < 0:
		err = wire.Errorf(wire.CodeInvalid, "send the bundle with a Content-Length")
	case r.ContentLength == 0:
		err = wire.Errorf(wire.CodeInvalid, "there is no bundle; send a gzip-compressed tar or a zip with %s in it", functions.ManifestName)
	case r.ContentLength > wire.MaxBundlePacked:
		err = bundleTooLarge()
	case r.ContentLength <= wire.BundlePart:
		digest, err = g.takeBundle(ctx, w, r)
	default:
		digest, err = g.streamBundle(ctx, w, r)
	}
	if err != nil {
		return "", "", err
	}
	return wire.StoredBundleKey(digest), digest, nil
}

// discardRefused removes a bundle that the builder refused: it would be again.
func (g *Gateway) discardRefused(ctx context.Context, key string, err error) {
	if wire.HasCode(err, wire.CodeInvalid) || wire.HasCode(err, wire.CodeTooLarge) {
		g.removeBundle(ctx, key)
	}
}

func bundleTooLarge() error {
	return wire.Errorf(wire.CodeTooLarge, "the bundle is over %d bytes, packed; leave files out with .dayflyignore", wire.MaxBundlePacked)
}

// hasBundle reports whether a bundle is there, and keeps it from being collected
// before it is built, or stored.
func (g *Gateway) hasBundle(ctx context.Context, digest wire.Digest) (bool, error) {
	if err := g.keeper.Keep(ctx, wire.StoredBundleKey(digest)); err != nil {
		return false, err
	}
	return g.deps.Store.Exists(ctx, wire.StoredBundleKey(digest))
}

// requireBundle fails unless a bundle was uploaded.
func (g *Gateway) requireBundle(ctx context.Context, digest wire.Digest) error {
	if !digest.Valid() {
		return notADigest(digest)
	}
	there, err := g.hasBundle(ctx, digest)
	switch {
	case err != nil:
		return bundleNotStored(err)
	case !there:
		return wire.Errorf(wire.CodeNotFound, "there is no bundle %s; upload its parts to /v1/bundles/%s/parts/1 and so on", digest, digest)
	}
	return nil
}

func notADigest(d wire.Digest) error {
	return wire.Errorf(wire.CodeInvalid, "%.80q is not a digest; name a bundle by its SHA-256, 64 lower-case hexadecimal digits", string(d))
}

func bundleNotStored(err error) error {
	if errors.Is(err, blob.ErrSource) {
		return wire.Errorf(wire.CodeInvalid, "the upload was broken off: %s", err)
	}
	return wire.Errorf(wire.CodeUnavailable, "the bundle could not be stored: %s", err)
}

// takeBundle stores a bundle that fits into memory.
func (g *Gateway) takeBundle(ctx context.Context, w http.ResponseWriter, r *http.Request) (wire.Digest, error) {
	defer boundBody(w, uploadTimeout)()
	data := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, data); err != nil {
		return "", wire.Errorf(wire.CodeInvalid, "the upload was broken off: %s", err)
	}
	sum := sha256.Sum256(data)
	digest := wire.Digest(hex.EncodeToString(sum[:]))
	there, err := g.hasBundle(ctx, digest)
	if err == nil && !there {
		err = g.deps.Store.Put(ctx, wire.StoredBundleKey(digest), bytes.NewReader(data), r.ContentLength, "application/octet-stream")
	}
	if err != nil {
		return "", bundleNotStored(err)
	}
	return digest, nil
}

// streamBundle stores a large bundle, whose name is known once all of it is there.
func (g *Gateway) streamBundle(ctx context.Context, w http.ResponseWriter, r *http.Request) (wire.Digest, error) {
	defer boundBody(w, uploadTimeout)()
	incoming, sum := wire.BundleKey(uuid.NewString()), sha256.New()
	defer g.removeBundle(ctx, incoming) // what a broken upload may have left as well
	err := g.deps.Store.Put(ctx, incoming, io.TeeReader(r.Body, sum), r.ContentLength, "application/octet-stream")
	if err != nil {
		return "", bundleNotStored(err)
	}
	digest := wire.Digest(hex.EncodeToString(sum.Sum(nil)))
	there, err := g.hasBundle(ctx, digest)
	if err == nil && !there {
		err = g.deps.Store.Copy(ctx, incoming, wire.StoredBundleKey(digest))
	}
	if err != nil {
		return "", bundleNotStored(err)
	}
	return digest, nil
}
